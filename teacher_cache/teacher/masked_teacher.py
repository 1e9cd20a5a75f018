"""Scores masked tokens with a Hugging Face masked language model, whose weights are read here alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store.rows import RowBlock
from teacher_cache.teacher.identity import model_family, require_readable
from teacher_cache.teacher.last_layer import LastLayer, part_last_layer, require_family
from teacher_cache.teacher.masking import MaskedCopies, batches_of_equal_length, masked_copies
from teacher_cache.teacher.tokenizer import SHOWN_CHARACTERS, EncodedPassages, PassageTokenizer
from teacher_cache.teacher.top_k import in_order, rank_logits

# A weight that every model of a family has where it was saved with its masked-LM head.
HEAD_WEIGHTS = {
    "bert": "cls.predictions.transform.dense.weight",
    "roberta": "lm_head.dense.weight",
    "distilbert": "vocab_transform.weight",
}


@dataclass(slots=True, kw_only=True)
class MaskedTeacher:
    """A masked language model that fills blanks: its encoder, and its vocabulary head in float32.

    tokenizer : of the passages that it scores     encoder : all layers but the last, ids (B, L) -> (B, L, D)
    last_layer : the same at chosen positions     head : (n, D) float32 -> (n, V)
    """

    tokenizer: PassageTokenizer
    encoder: Callable[[Tensor], Tensor]
    last_layer: LastLayer
    head: Callable[[Tensor], Tensor]
    device: torch.device

    @staticmethod
    def load(folder: Path, dtype: str = "float32", device: str = "cpu") -> MaskedTeacher:
        """The teacher of a local Hugging Face folder; only safetensors are read and no code of it runs.

        dtype : of the encoder, "float32" or "bfloat16"; the head is always float32.
        Raises CacheError for a folder without a masked-LM head, an unknown family, or a tokenizer whose
        vocabulary is not the model's.
        """
        model = _load_model(folder)
        last_layer = part_last_layer(model)  # before anything else: it refuses an unknown family
        head = copy.deepcopy(_masked_lm_head(model)).to(device)  # apart from the encoder's dtype
        encoder = model.base_model.to(device=device, dtype=getattr(torch, dtype))
        last_layer.to(device=device, dtype=getattr(torch, dtype))
        return MaskedTeacher(
            tokenizer=PassageTokenizer.load(folder),
            encoder=lambda ids: encoder(ids).last_hidden_state,
            last_layer=last_layer,
            head=head,
            device=torch.device(device),
        )

    @torch.inference_mode()
    def score(
        self,
        encoded: EncodedPassages,
        wanted: np.ndarray,
        config: CacheConfig,
        batch_tokens: int,
    ) -> RowBlock:
        """The rows of the wanted pieces, in the order of the pieces.

        wanted : bool (P,) over the own pieces of all passages, one passage behind the other.
        Batches hold copies of one length, so there is neither padding nor a mask, and follow from the
        arguments alone. Raises CacheError that names the passage where the model yields NaN or infinity.
        """
        own_length = encoded.own_length
        passage_of_piece = np.repeat(np.arange(len(encoded)), own_length)
        copies = masked_copies(passage_of_piece, encoded.own_word, encoded.length, wanted, config.masking)
        before = encoded.own_end - own_length - encoded.own_start
        position = np.arange(len(wanted)) - np.repeat(before, own_length)  # of each piece, in its passage
        start = encoded.end - encoded.length
        gold = encoded.ids[start[passage_of_piece] + position].astype(np.int64)
        is_unranked = torch.from_numpy(self.tokenizer.is_unranked(config.ranked_pieces)).to(self.device)
        impossible = torch.from_numpy(np.flatnonzero(self.tokenizer.is_impossible(config.ranked_pieces)))
        impossible = impossible.to(self.device)
        top_k = self.tokenizer.rankable(config.top_k, config.ranked_pieces)
        blocks, scored = [], []
        for batch in batches_of_equal_length(copies.length, batch_tokens):
            pieces, hidden = self._hidden_pieces(encoded, copies, batch, position)
            is_row = wanted[pieces]  # under whole_word a neighbouring shard may own part of the word
            pieces, hidden = pieces[is_row], hidden[torch.from_numpy(is_row).to(self.device)]
            gold_id = torch.from_numpy(gold[pieces]).to(self.device)
            logits = self.head(hidden)
            if len(impossible):
                logits = logits.index_fill(1, impossible, -torch.inf)
            rows = rank_logits(logits, gold_id, is_unranked, top_k, config.temperatures)
            if not np.isfinite(rows.gold_logprob).all():
                first = encoded[int(passage_of_piece[pieces[~np.isfinite(rows.gold_logprob)][0]])]
                shown = repr(self.tokenizer.text_of(first.own_ids)[:SHOWN_CHARACTERS])
                raise CacheError(
                    f"the teacher yields NaN or infinity for passage {shown}; check its weights, or set "
                    '[cache] dtype = "float32"'
                )
            blocks.append(rows)
            scored.append(pieces)
        return in_order(blocks, scored)

    def _hidden_pieces(
        self, encoded: EncodedPassages, copies: MaskedCopies, batch: slice, position: np.ndarray
    ) -> tuple[np.ndarray, Tensor]:
        """The pieces hidden in a batch of copies (h,) and the encoder's output at each (h, D)."""
        first, last = np.searchsorted(copies.copy, [batch.start, batch.stop])
        pieces, row = copies.piece[first:last], copies.copy[first:last] - batch.start
        passages, length = copies.passage[batch], int(copies.length[batch.start])
        start = encoded.end[passages] - length
        ids = encoded.ids[start[:, None] + np.arange(length)].astype(np.int64)
        ids[row, position[pieces]] = self.tokenizer.mask_id
        hidden = self.encoder(torch.from_numpy(ids).to(self.device))
        at = [torch.from_numpy(part).to(self.device) for part in (row, position[pieces])]
        return pieces, self.last_layer(hidden, *at).float()


def require_scorable(folder: Path) -> None:
    """CacheError for a folder that `load` would refuse by its family or for want of a head.

    Only config.json and the names of the weights are read.
    """
    require_readable(folder)
    family = model_family(folder)
    require_family(family, str(folder))
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as weights:
                names |= set(weights.keys())
        except (OSError, SafetensorError) as error:
            raise CacheError(f"{path}: not safetensors ({error}); fetch or save the teacher again") from error
    if HEAD_WEIGHTS[family] not in names:
        raise CacheError(
            f"{folder}: weights are missing, among them {HEAD_WEIGHTS[family]}; name a teacher that was "
            "saved with its masked-LM head"
        )


def _load_model(folder: Path) -> Any:
    """The model in evaluation mode, float32."""
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging

    require_readable(folder)
    logging.disable_progress_bar()
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # damaged files make the library raise anything; it runs no code of theirs
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CacheError(
            f"{folder}: not a masked language model in safetensors ({reason}); name another under [teacher]"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CacheError(
            f"{folder}: {len(missing)} weights are missing, among them {missing[0]}; name a teacher that was "
            "saved with its masked-LM head"
        )
    return model.eval()


def _masked_lm_head(model: Any) -> nn.Module:
    """What turns the encoder's output into logits, (n, D) -> (n, V)."""
    family = model.config.model_type
    if family == "bert":
        return model.cls  # type: ignore[no-any-return]
    if family == "roberta":
        return model.lm_head  # type: ignore[no-any-return]
    layers = (model.vocab_transform, model.activation, model.vocab_layer_norm, model.vocab_projector)
    return nn.Sequential(*layers)
