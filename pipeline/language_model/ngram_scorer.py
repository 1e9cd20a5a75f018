"""An n-gram model over a student's units as a scorer in torch: all rows of a batch at once, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.language_model.ngram_model import END, START, UNKNOWN, NgramModel
from student.decoding.interface import NextUnitScores
from teacher_cache.common.differences import listed

NATURAL = math.log(10)  # ARPA files have log10
_NOWHERE = -1  # a history that the model does not have


class NgramState(NamedTuple):
    """Rows, each a beginning of a sentence.

    histories : int64 (N, order - 1), which entry of the 1-grams, 2-grams, ... the last words are, or -1
    log_probs, end_log_probs : what `NgramScorer.scores` returns
    """

    histories: Tensor
    log_probs: Tensor
    end_log_probs: Tensor


@dataclass(frozen=True, slots=True)
class _Followers:
    """What follows each history of one length, sorted by history, then by token.

    start : int64 (H + 1,)     token : int64 (G,)     key : int64 (G,), history * tokens + token, ascending
    log_prob : float32 (G,), natural     backoff : float32 (H,), natural, of the history
    """

    start: Tensor
    token: Tensor
    key: Tensor
    log_prob: Tensor
    backoff: Tensor


class NgramScorer:
    """A NextUnitScorer of an n-gram model whose words are units' pieces.

    Tokens are columns: 0 is the sentence's end, 1..V - 1 are units. Nothing here loops over rows or units.
    """

    def __init__(self, model: NgramModel, pieces: Sequence[str], digest: str) -> None:
        """pieces : of `Units`, "" the blank; the piece `<unk>` is the model's unknown word.

        Raises PipelineError where the model's words are other than the pieces.
        """
        self.digest = digest
        self._num_units = len(pieces)
        token_of_word = _tokens(model, pieces)
        self._followers: list[_Followers] = []
        # Entries are numbered anew, sorted by history and token, so that those of one history stand together.
        new_number = np.where(token_of_word > 0, token_of_word, _NOWHERE)
        unigrams, words = model.orders[0], np.flatnonzero(token_of_word >= 0)
        self._unigrams = torch.full((len(pieces),), -torch.inf)
        self._unigrams[token_of_word[words]] = _natural(unigrams.log_prob[words])
        new_number[model.words.index(START)] = len(pieces)
        backoff = np.zeros(len(pieces) + 1, dtype=np.float32)
        is_history = new_number >= 0
        backoff[new_number[is_history]] = unigrams.backoff[is_history]
        for order in model.orders[1:]:
            tokens = token_of_word[order.word]
            kept = np.flatnonzero((tokens >= 0) & (new_number[order.context] >= 0))
            key = new_number[order.context[kept]].astype(np.int64) * len(pieces) + tokens[kept]
            by_key = np.argsort(key, kind="stable")
            kept, key = kept[by_key], key[by_key]
            histories = np.arange(len(backoff) + 1, dtype=np.int64) * len(pieces)
            self._followers.append(
                _Followers(
                    start=torch.from_numpy(np.searchsorted(key, histories)),
                    token=torch.from_numpy(tokens[kept].astype(np.int64)),
                    key=torch.from_numpy(key),
                    log_prob=_natural(order.log_prob[kept]),
                    backoff=_natural(backoff),
                )
            )
            new_number = np.full(len(order), _NOWHERE, dtype=np.int64)
            new_number[kept] = np.arange(len(kept))
            backoff = order.backoff[kept]
        self._device = torch.device("cpu")

    @property
    def num_units(self) -> int:
        """V: the student's outputs, the blank included."""
        return self._num_units

    def initial(self, count: int, device: torch.device) -> NgramState:
        """`count` rows that hold `<s>` alone; the tables move to `device`."""
        if device != self._device:
            self._move_to(device)
        histories = torch.full((1, max(len(self._followers), 1)), _NOWHERE, dtype=torch.int64, device=device)
        histories[0, 0] = self._num_units
        log_probs, end = self._scores_of(histories)
        rows = torch.zeros(count, dtype=torch.int64, device=device)
        return NgramState(histories[rows], log_probs[rows], end[rows])

    def select(self, state: NgramState, rows: Tensor) -> NgramState:
        """The rows at `rows`."""
        return NgramState(*(part[rows] for part in state))

    def advance(self, state: NgramState, units: Tensor) -> NgramState:
        """Every row followed by its unit; where that is 0 it stays."""
        grown = units.nonzero().squeeze(1)
        if not len(grown):
            return state
        histories = self._followed(state.histories[grown], units[grown])
        log_probs, end = self._scores_of(histories)
        return NgramState(
            state.histories.index_copy(0, grown, histories),
            state.log_probs.index_copy(0, grown, log_probs),
            state.end_log_probs.index_copy(0, grown, end),
        )

    def scores(self, state: NgramState) -> NextUnitScores:
        """What may come next, kept since the rows grew."""
        return NextUnitScores(state.log_probs, state.end_log_probs)

    def _move_to(self, device: torch.device) -> None:
        self._unigrams = self._unigrams.to(device)
        self._followers = [
            _Followers(*(getattr(one, name).to(device) for name in _Followers.__slots__))
            for one in self._followers
        ]
        self._device = device

    def _followed(self, histories: Tensor, units: Tensor) -> Tensor:
        """The histories (N, order - 1) after one unit more."""
        longer = [units]
        for followers, history in zip(self._followers[:-1], histories.unbind(1), strict=False):
            key = history * self._num_units + units
            place = torch.searchsorted(followers.key, key)
            if not len(followers.key):
                longer.append(torch.full_like(units, _NOWHERE))
                continue
            place.clamp_(max=len(followers.key) - 1)
            is_there = (followers.key[place] == key) & (history != _NOWHERE)
            longer.append(torch.where(is_there, place, _NOWHERE))
        return torch.stack(longer, 1)

    def _scores_of(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """log_probs (N, V) and end_log_probs (N,): the longest n-gram that there is, else what backing off
        weighs the shorter with, from the shortest history to the longest."""
        scores = self._unigrams.expand(len(histories), -1).clone()
        for followers, history in zip(self._followers, histories.unbind(1), strict=False):
            is_there = history != _NOWHERE
            known = history.clamp(min=0)
            scores += torch.where(is_there, followers.backoff[known], 0.0)[:, None]
            first = followers.start[known]
            count = torch.where(is_there, followers.start[known + 1] - first, 0)
            row = torch.repeat_interleave(count)  # each row as often as it has followers
            within = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
            entry = first[row] + within
            scores[row, followers.token[entry]] = followers.log_prob[entry]
        end = scores[:, 0].clone()
        scores[:, 0] = -torch.inf
        return scores, end


def _natural(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float64) * NATURAL).float()


def _tokens(model: NgramModel, pieces: Sequence[str]) -> np.ndarray:
    """int64 (words,), the column of each word of the model; -1 for `<s>`."""
    columns = {piece: column for column, piece in enumerate(pieces) if column}
    for special in (START, END):
        columns.pop(special, None)
    lacking = [word for word in (START, END) if word not in model.words]
    if lacking:
        raise PipelineError(
            f"the n-gram model lacks {listed(lacking)}; estimate one with `bert2ctc lm ngram`"
        )
    strange = [word for word in model.words if word not in columns and word not in (START, END, UNKNOWN)]
    words = set(model.words)
    absent = [piece for piece in columns if piece not in words and piece != UNKNOWN]
    if strange or absent:
        named = listed([repr(word) for word in (*strange, *absent)], 3, ", ")
        raise PipelineError(
            f"the n-gram model is of other units: {len(strange):,} of its {len(model.words):,} words are no "
            f"units, and it lacks {len(absent):,} of {len(columns):,} ({named}); estimate one of these units "
            "with `bert2ctc lm ngram`"
        )
    own = {END: 0, START: -1, UNKNOWN: columns.get(UNKNOWN, -1)}
    return np.array([own.get(word, columns.get(word, -1)) for word in model.words], dtype=np.int64)
