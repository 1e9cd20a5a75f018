"""Scores masked tokens with a Hugging Face masked language model: the only user of transformers here."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage
from teacher_cache.store.rows import RowBlock
from teacher_cache.teacher.last_layer import LastLayer, part_last_layer
from teacher_cache.teacher.masking import (
    MaskedCopies,
    batches_of_equal_length,
    masked_copies,
    words_of_pieces,
)
from teacher_cache.teacher.top_k import in_order, rank_logits

UNUSED_PIECE = re.compile(r"\[unused\d+\]|madeupword\d+")
SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class EncodedPassage:
    """One passage as the model reads it, [CLS] left own right [SEP].

    ids : int64 (L,)     own_start, own_length : where the U pieces of the passage's own text stand
    own_word : int64 (U,), whitespace-delimited word of each own piece, counted from 0, ascending
    """

    ids: np.ndarray
    own_start: int
    own_length: int
    own_word: np.ndarray

    @property
    def own_ids(self) -> np.ndarray:
        """int64 (U,), the pieces that become rows."""
        return self.ids[self.own_start : self.own_start + self.own_length]


@dataclass(slots=True, kw_only=True)
class MaskedTeacher:
    """A masked language model that fills blanks: its encoder, its vocabulary head in float32, its tokenizer.

    vocabulary : V pieces     is_special : bool (V,), pieces that are never ranked
    max_tokens : of a passage, context and specials included     encoder : all layers but the last,
    ids (B, L) -> (B, L, D)     last_layer : the same at chosen places     head : (n, D) float32 -> (n, V)
    """

    tokenizer: Any
    encoder: Callable[[Tensor], Tensor]
    last_layer: LastLayer
    head: Callable[[Tensor], Tensor]
    vocabulary: list[str]
    is_special: np.ndarray
    mask_id: int
    unknown_id: int | None  # a gold piece all the same where a transcript holds it
    max_tokens: int
    device: torch.device

    @staticmethod
    def load(folder: Path, dtype: str = "float32", device: str = "cpu") -> MaskedTeacher:
        """The teacher of a local Hugging Face folder; only safetensors are read and no code of it runs.

        dtype : of the encoder, "float32" or "bfloat16"; the head is always float32.
        Raises CacheError for a folder without a masked-LM head, an unknown family, or a tokenizer whose
        vocabulary is not the model's.
        """
        model, tokenizer = _load_folder(folder)
        last_layer = part_last_layer(model)  # before anything else: it refuses an unknown family
        head = copy.deepcopy(_masked_lm_head(model)).to(device)  # apart from the encoder's dtype
        encoder = model.base_model.to(device=device, dtype=getattr(torch, dtype))
        last_layer.to(device=device, dtype=getattr(torch, dtype))
        vocab_size = int(model.config.vocab_size)
        if len(tokenizer) != vocab_size:
            raise CacheError(
                f"{folder}: the tokenizer knows {len(tokenizer)} pieces, the model {vocab_size}; "
                "name a teacher whose files belong together"
            )
        vocabulary = [str(piece) for piece in tokenizer.convert_ids_to_tokens(range(vocab_size))]
        special_ids = set(tokenizer.all_special_ids)
        positions = model.base_model.embeddings.position_embeddings
        return MaskedTeacher(
            tokenizer=tokenizer,
            encoder=lambda ids: encoder(ids).last_hidden_state,
            last_layer=last_layer,
            head=head,
            vocabulary=vocabulary,
            is_special=np.array(
                [
                    index in special_ids or bool(UNUSED_PIECE.fullmatch(piece))
                    for index, piece in enumerate(vocabulary)
                ]
            ),
            mask_id=int(tokenizer.mask_token_id),
            unknown_id=tokenizer.unk_token_id,
            # RoBERTa's positions begin behind its padding id
            max_tokens=positions.num_embeddings
            - (0 if positions.padding_idx is None else positions.padding_idx + 1),
            device=torch.device(device),
        )

    def rankable(self, top_k: int) -> int:
        """K cut to the number of pieces that may be ranked."""
        return min(top_k, int((~self.is_special).sum()))

    def encode(self, passages: Sequence[Passage]) -> list[EncodedPassage]:
        """Tokenise; raises CacheError for a passage without a piece or above the model's length limit.

        The parts are joined by spaces behind one leading space and tokenised as one text, so that a word
        has the same pieces wherever it stands: RoBERTa's carry the space before them, BERT's ignore it.
        """
        texts = [" " + " ".join(part for part in (p.left, p.text, p.right) if part) for p in passages]
        if not texts:
            return []
        encoding = self.tokenizer(
            texts,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            verbose=False,  # its length warning; ours is an error
        )
        fields = (encoding["input_ids"], encoding["offset_mapping"], encoding["special_tokens_mask"])
        return [
            self._encoded(passage, text, *parts)
            for passage, text, *parts in zip(passages, texts, *fields, strict=True)
        ]

    def _encoded(
        self, passage: Passage, text: str, ids: list[int], offsets: list[tuple[int, int]], special: list[int]
    ) -> EncodedPassage:
        shown = repr(passage.text[:SHOWN_CHARACTERS])
        if len(ids) > self.max_tokens:
            raise CacheError(
                f"passage {shown} takes {len(ids)} tokens, the teacher reads {self.max_tokens}; lower "
                "context_words under [cache], leave the utterance out, or name a teacher with more positions"
            )
        first_word = len(passage.left.split())
        word = words_of_pieces(text, np.array([start for start, _ in offsets])) - first_word
        is_own = (word >= 0) & (word < len(passage.text.split())) & ~np.array(special, dtype=bool)
        own = np.flatnonzero(is_own)
        if not len(own):
            raise CacheError(f"passage {shown} holds no token; leave it out of the manifest")
        return EncodedPassage(np.array(ids), int(own[0]), len(own), word[own])

    @torch.inference_mode()
    def score(
        self,
        encoded: Sequence[EncodedPassage],
        wanted: np.ndarray,
        config: CacheConfig,
        batch_tokens: int,
    ) -> RowBlock:
        """The rows of the wanted pieces, in the order of the pieces.

        wanted : bool (P,) over the own pieces of all passages, one passage behind the other.
        Batches hold copies of one length, so there is neither padding nor a mask, and follow from the
        arguments alone. Raises CacheError that names the passage where the model yields NaN or infinity.
        """
        own_length = np.array([passage.own_length for passage in encoded])
        passage_of_piece = np.repeat(np.arange(len(encoded)), own_length)
        copies = masked_copies(
            passage_of_piece,
            np.concatenate([passage.own_word for passage in encoded]),
            np.array([len(passage.ids) for passage in encoded]),
            wanted,
            config.masking,
        )
        gold = np.concatenate([passage.own_ids for passage in encoded])
        before = np.cumsum(own_length) - own_length - [passage.own_start for passage in encoded]
        position = np.arange(len(gold)) - np.repeat(before, own_length)  # of each piece, in its passage
        is_special, top_k = torch.from_numpy(self.is_special).to(self.device), self.rankable(config.top_k)
        blocks, places = [], []
        for batch in batches_of_equal_length(copies.length, batch_tokens):
            pieces, hidden = self._hidden_pieces(encoded, copies, batch, position)
            is_row = wanted[pieces]  # under whole_word a neighbouring shard may own part of the word
            pieces, hidden = pieces[is_row], hidden[torch.from_numpy(is_row).to(self.device)]
            gold_id = torch.from_numpy(gold[pieces]).to(self.device)
            rows = rank_logits(self.head(hidden), gold_id, is_special, top_k, config.temperatures)
            if not np.isfinite(rows.gold_logprob).all():
                first = encoded[passage_of_piece[pieces[~np.isfinite(rows.gold_logprob)][0]]]
                shown = repr(self.tokenizer.decode(first.own_ids)[:SHOWN_CHARACTERS])
                raise CacheError(
                    f"the teacher yields NaN or infinity for passage {shown}; check its weights, or set "
                    '[cache] dtype = "float32"'
                )
            blocks.append(rows)
            places.append(pieces)
        return in_order(blocks, places)

    def _hidden_pieces(
        self, encoded: Sequence[EncodedPassage], copies: MaskedCopies, batch: slice, position: np.ndarray
    ) -> tuple[np.ndarray, Tensor]:
        """The pieces hidden in a batch of copies (h,) and the encoder's output at each (h, D)."""
        first, last = np.searchsorted(copies.copy, [batch.start, batch.stop])
        pieces, row = copies.piece[first:last], copies.copy[first:last] - batch.start
        ids = np.stack([encoded[passage].ids for passage in copies.passage[batch]])
        ids[row, position[pieces]] = self.mask_id
        hidden = self.encoder(torch.from_numpy(ids).to(self.device))
        places = [torch.from_numpy(part).to(self.device) for part in (row, position[pieces])]
        return pieces, self.last_layer(hidden, *places).float()


def _load_folder(folder: Path) -> tuple[Any, Any]:
    """The model in evaluation mode, float32, and its fast tokenizer."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging

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
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CacheError(
            f"{folder}: not a masked language model in safetensors ({reason}); name another under [teacher]"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CacheError(
            f"{folder}: {len(missing)} weights are missing, among them {missing[0]}; name a teacher that was "
            "saved with its masked-LM head"
        )
    if not tokenizer.is_fast or tokenizer.mask_token_id is None:
        raise CacheError(f"{folder}: needs a fast tokenizer with a mask piece; save tokenizer.json beside it")
    return model.eval(), tokenizer


def _masked_lm_head(model: Any) -> nn.Module:
    """What turns the encoder's output into logits, (n, D) -> (n, V)."""
    family = model.config.model_type
    if family == "bert":
        return model.cls  # type: ignore[no-any-return]
    if family == "roberta":
        return model.lm_head  # type: ignore[no-any-return]
    layers = (model.vocab_transform, model.activation, model.vocab_layer_norm, model.vocab_projector)
    return nn.Sequential(*layers)
