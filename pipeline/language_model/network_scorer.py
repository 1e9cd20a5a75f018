"""A small causal transformer over a student's units as a scorer, with a cache of keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.files import FILES
from student.decoding.interface import NextUnitScores

EDGE = 0  # the blank's id, which no sentence holds: a sentence's start as input, its end as output
FIRST_ROOM = 256  # beginnings that a pool has room for at first


class _Pool:
    """Keys and values of every beginning that a search met, each once: rows share what they have in common.

    Only ever added to, so that old states stay as they were. keys, values : (room, layers, heads, d)
    """

    def __init__(self, num_layers: int, num_heads: int, head_dim: int, device: torch.device) -> None:
        self.keys = torch.empty(FIRST_ROOM, num_layers, num_heads, head_dim, device=device)
        self.values = torch.empty_like(self.keys)
        self.size = 0

    def add(self, keys: Tensor, values: Tensor) -> Tensor:
        """Keep (G, layers, heads, d); int64 (G,) of where they lie."""
        first, self.size = self.size, self.size + len(keys)
        if self.size > len(self.keys):
            room = torch.empty(max(self.size, 2 * len(self.keys)), *self.keys.shape[1:], device=keys.device)
            self.keys, self.values = (
                torch.cat([old[:first], room[first:]]) for old in (self.keys, self.values)
            )
        self.keys[first : self.size], self.values[first : self.size] = keys, values
        return torch.arange(first, self.size, device=keys.device)


class NetworkState(NamedTuple):
    """Rows, each a beginning of a sentence.

    pool : where keys and values lie     places : int64 (N, T), of each row's tokens in it, the start's first
    lengths : int64 (N,), tokens of each row, so that columns of `places` beyond mean nothing
    log_probs, end_log_probs : what `NetworkScorer.scores` returns
    """

    pool: _Pool
    places: Tensor
    lengths: Tensor
    log_probs: Tensor
    end_log_probs: Tensor


class NetworkScorer:
    """A NextUnitScorer of a GPT-2 whose vocabulary is the student's outputs, 0 a sentence's start and end.

    One call of the network an `advance`, for the rows that grew alone. A sentence longer than the network
    has positions goes on at the last one.
    """

    def __init__(self, model: Any, digest: str) -> None:
        """model : transformers' GPT2LMHeadModel; it moves to the device of `initial`."""
        self.digest = digest
        self._model = model.eval()

    @property
    def num_units(self) -> int:
        """V: the student's outputs, the blank included."""
        return int(self._model.config.vocab_size)

    @torch.inference_mode()
    def initial(self, count: int, device: torch.device) -> NetworkState:
        """`count` rows that hold the sentence's start alone."""
        self._model.to(device)
        config = self._model.config
        pool = _Pool(config.n_layer, config.n_head, config.n_embd // config.n_head, device)
        nothing = torch.zeros(1, 0, dtype=torch.int64, device=device)
        start = torch.full((1,), EDGE, dtype=torch.int64, device=device)
        place, log_probs, end = self._grown(pool, nothing, torch.zeros_like(start), start)
        rows = torch.zeros(count, dtype=torch.int64, device=device)
        return NetworkState(pool, place[rows, None], torch.ones_like(rows), log_probs[rows], end[rows])

    def select(self, state: NetworkState, rows: Tensor) -> NetworkState:
        """The rows at `rows`; only numbers are copied, no keys or values."""
        return NetworkState(state.pool, *(part[rows] for part in state[1:]))

    @torch.inference_mode()
    def advance(self, state: NetworkState, units: Tensor) -> NetworkState:
        """Every row followed by its unit; where that is 0 it stays."""
        grown = units.nonzero().squeeze(1)
        if not len(grown):
            return state
        lengths = state.lengths[grown]
        past = state.places[grown, : int(lengths.max())]
        place, log_probs, end = self._grown(state.pool, past, lengths, units[grown])
        places = state.places
        if int(lengths.max()) == places.shape[1]:
            places = torch.nn.functional.pad(places, (0, 1))
        places = places.index_put((grown, lengths), place)
        return NetworkState(
            state.pool,
            places,
            state.lengths.index_add(0, grown, torch.ones_like(grown)),
            state.log_probs.index_copy(0, grown, log_probs),
            state.end_log_probs.index_copy(0, grown, end),
        )

    def scores(self, state: NetworkState) -> NextUnitScores:
        """What may come next, kept since the rows grew."""
        return NextUnitScores(state.log_probs, state.end_log_probs)

    def _grown(
        self, pool: _Pool, past: Tensor, lengths: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's place in the pool after one token more, log_probs (G, V) and end_log_probs (G,).

        past : (G, T) places of the tokens before, of which the first `lengths` count     tokens : (G,)
        """
        from transformers import DynamicCache

        num_past = past.shape[1]
        cache = DynamicCache(config=self._model.config)
        if num_past:
            keys, values = pool.keys[past], pool.values[past]  # (G, T, layers, heads, d)
            for layer in range(keys.shape[2]):
                cache.update(keys[:, :, layer].transpose(1, 2), values[:, :, layer].transpose(1, 2), layer)
        is_past = torch.arange(num_past, device=past.device) < lengths[:, None]
        mask = torch.nn.functional.pad(is_past, (0, 1), value=True)
        outputs = self._model(
            input_ids=tokens[:, None],
            attention_mask=mask.long(),
            position_ids=lengths[:, None].clamp(max=self._model.config.n_positions - 1),
            past_key_values=cache,
            use_cache=True,
        )
        added = outputs.past_key_values.layers
        place = pool.add(
            torch.stack([layer.keys[:, :, -1] for layer in added], 1),
            torch.stack([layer.values[:, :, -1] for layer in added], 1),
        )
        log_probs = outputs.logits[:, -1].float().log_softmax(-1)
        end = log_probs[:, EDGE].clone()
        log_probs[:, EDGE] = -torch.inf
        return place, log_probs, end


def open_network(folder: Path, num_units: int, digest: str) -> NetworkScorer:
    """The scorer of a trained network. Raises PipelineError for weights that are not of so many units."""
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    FILES.files_only(folder, "move it away and make it again with `bert2ctc lm train`")
    logging.disable_progress_bar()
    try:
        model = GPT2LMHeadModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
    except Exception as error:  # transformers, safetensors and torch each raise their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PipelineError(f"{folder}: holds no network ({reason}); use `bert2ctc lm train`") from None
    if model.config.vocab_size != num_units:
        raise PipelineError(
            f"{folder}: has {model.config.vocab_size} units with the blank, the student {num_units}; train "
            "one of these units with `bert2ctc lm train`"
        )
    return NetworkScorer(model, digest)
