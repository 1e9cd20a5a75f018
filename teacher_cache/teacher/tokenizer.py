"""A teacher's tokenizer, without its weights: passages as the model reads them, and what pieces there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage
from teacher_cache.teacher.identity import model_sizes, require_readable
from teacher_cache.teacher.masking import words_of_pieces
from teacher_cache.teacher.speakable import speakable_pieces

UNUSED_PIECE = re.compile(r"\[unused\d+\]|madeupword\d+")
SHOWN_CHARACTERS = 40
_ENDS = {"none": "", "full_stop": "."}
PASSAGES_PER_CALL = 1024  # the tokenizer's own record of a passage takes ten times what is kept of it


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


@dataclass(frozen=True, slots=True)
class EncodedPassages:
    """M passages, one behind the other: few large arrays, which are cheap to keep and to send to a worker.

    ids, own_word : int32, as of EncodedPassage     end, own_end : int64 (M,), where each passage ends in them
    own_start : int64 (M,), where a passage's own pieces begin within its ids
    """

    ids: np.ndarray
    end: np.ndarray
    own_word: np.ndarray
    own_end: np.ndarray
    own_start: np.ndarray

    def __len__(self) -> int:
        return len(self.end)

    def __getitem__(self, index: int) -> EncodedPassage:
        index = range(len(self))[index]
        first, own_first = (int(end[index - 1]) if index else 0 for end in (self.end, self.own_end))
        words = self.own_word[own_first : self.own_end[index]].astype(np.int64)
        ids = self.ids[first : self.end[index]].astype(np.int64)
        return EncodedPassage(ids, int(self.own_start[index]), len(words), words)

    def __iter__(self) -> Iterator[EncodedPassage]:
        return (self[index] for index in range(len(self)))

    @property
    def length(self) -> np.ndarray:
        """int64 (M,), all tokens of each passage."""
        return np.diff(self.end, prepend=0)

    @property
    def own_length(self) -> np.ndarray:
        """int64 (M,), the rows of each passage."""
        return np.diff(self.own_end, prepend=0)

    def take(self, indices: np.ndarray) -> EncodedPassages:
        """These passages, in this order."""
        length, own_length = self.length[indices], self.own_length[indices]
        return EncodedPassages(
            self.ids[_spans(self.end[indices], length)],
            np.cumsum(length),
            self.own_word[_spans(self.own_end[indices], own_length)],
            np.cumsum(own_length),
            self.own_start[indices],
        )

    @staticmethod
    def of(passages: Sequence[EncodedPassage]) -> EncodedPassages:
        """All of them, in order."""
        ids = [passage.ids.astype(np.int32) for passage in passages]
        words = [passage.own_word.astype(np.int32) for passage in passages]
        return EncodedPassages(
            _joined(ids, np.int32),
            np.cumsum([len(part) for part in ids], dtype=np.int64),
            _joined(words, np.int32),
            np.cumsum([len(part) for part in words], dtype=np.int64),
            np.array([passage.own_start for passage in passages], dtype=np.int64),
        )

    @staticmethod
    def concatenate(blocks: Sequence[EncodedPassages]) -> EncodedPassages:
        """All passages of all blocks, in order."""
        return EncodedPassages(
            _joined([block.ids for block in blocks], np.int32),
            np.cumsum(_joined([block.length for block in blocks], np.int64)),
            _joined([block.own_word for block in blocks], np.int32),
            np.cumsum(_joined([block.own_length for block in blocks], np.int64)),
            _joined([block.own_start for block in blocks], np.int64),
        )


def _joined(parts: Sequence[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _spans(end: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The indices of spans that end there, one span behind the other."""
    shift = np.repeat(end - np.cumsum(length), length)
    indices: np.ndarray = np.arange(len(shift)) + shift
    return indices


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageTokenizer:
    """What turns passages into the tokens of a teacher.

    vocabulary : V pieces     is_special : bool (V,), special and unused pieces, which are never ranked
    is_speakable : bool (V,), pieces that a normalised transcript can hold
    unknown_id : a gold piece all the same where a transcript holds it; None where there is none
    max_tokens : of a passage, context and specials included     backend : transformers' fast tokenizer
    """

    backend: Any
    vocabulary: list[str]
    is_special: np.ndarray
    is_speakable: np.ndarray
    mask_id: int
    unknown_id: int | None
    max_tokens: int

    @staticmethod
    def load(folder: Path) -> PassageTokenizer:
        """The tokenizer of a local Hugging Face folder, whose weights are not read and no code of which runs.

        Raises CacheError where there is none, or where its vocabulary is not the model's.
        """
        backend = _load_backend(folder)
        vocab_size, max_tokens = model_sizes(folder)
        if len(backend) != vocab_size:
            raise CacheError(
                f"{folder}: the tokenizer knows {len(backend)} pieces, the model {vocab_size}; "
                "name a teacher whose files belong together"
            )
        vocabulary = [str(piece) for piece in backend.convert_ids_to_tokens(range(vocab_size))]
        special_ids = set(backend.all_special_ids)
        is_special = [
            index in special_ids or bool(UNUSED_PIECE.fullmatch(piece))
            for index, piece in enumerate(vocabulary)
        ]
        return PassageTokenizer(
            backend=backend,
            vocabulary=vocabulary,
            is_special=np.array(is_special),
            is_speakable=speakable_pieces(vocabulary, backend),
            mask_id=int(backend.mask_token_id),
            unknown_id=backend.unk_token_id,
            max_tokens=max_tokens,
        )

    def is_impossible(self, ranked_pieces: str) -> np.ndarray:
        """Bool (V,), pieces without probability under this policy: the others' sum to one.

        A special piece is not among them, so that a vocabulary of nothing else that is unspeakable has equal
        rows under both policies; the unknown piece stands for what is spoken all the same.
        """
        if ranked_pieces == "all":
            return np.zeros(len(self.is_special), dtype=bool)
        impossible: np.ndarray = ~self.is_speakable & ~self.is_special
        return impossible

    def is_unranked(self, ranked_pieces: str) -> np.ndarray:
        """Bool (V,), pieces that are never a candidate under this policy."""
        unranked: np.ndarray = self.is_special | self.is_impossible(ranked_pieces)
        return unranked

    def rankable(self, top_k: int, ranked_pieces: str) -> int:
        """K cut to the number of pieces that may be ranked under this policy."""
        return min(top_k, int((~self.is_unranked(ranked_pieces)).sum()))

    def require_ranked(self, tokens: EncodedPassages, ranked_pieces: str) -> None:
        """CacheError that names the first passage with an own piece that has no probability, and the piece.

        No normalised transcript holds one; a manifest of another hand may.
        """
        is_impossible = self.is_impossible(ranked_pieces)
        if not is_impossible[tokens.ids].any():
            return
        for passage in tokens:
            found = passage.own_ids[is_impossible[passage.own_ids]]
            if len(found):
                raise CacheError(
                    f"passage {self.text_of(passage.own_ids)[:SHOWN_CHARACTERS]!r} holds piece "
                    f"{self.vocabulary[found[0]]!r}, which is not speakable (a-z and apostrophe alone); "
                    'normalise it with `bert2ctc data prepare`, or set [cache] ranked_pieces = "all"'
                )

    def encode(self, passages: Sequence[Passage], passage_end: str = "none") -> EncodedPassages:
        """Tokenise; raises CacheError for a passage without a piece or above the model's length limit.

        The parts are joined by spaces behind one leading space and tokenised as one text, so that a word
        has the same pieces wherever it stands: RoBERTa's carry the space before them, BERT's ignore it.
        passage_end : of the [cache] table; a full stop is read and has no row
        """
        starts = range(0, len(passages), PASSAGES_PER_CALL)
        return EncodedPassages.concatenate(
            [
                self._encoded_block(passages[start : start + PASSAGES_PER_CALL], _ENDS[passage_end])
                for start in starts
            ]
        )

    def text_of(self, ids: np.ndarray) -> str:
        """Pieces as text, for people."""
        return str(self.backend.decode(ids))

    def _encoded_block(self, passages: Sequence[Passage], end: str) -> EncodedPassages:
        texts = [" " + " ".join(part for part in (p.left, p.text, p.right, end) if part) for p in passages]
        encoding = self.backend(
            texts,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            verbose=False,  # its length warning; ours is an error
        )
        fields = (encoding["input_ids"], encoding["offset_mapping"], encoding["special_tokens_mask"])
        return EncodedPassages.of(
            [
                self._encoded(passage, text, *parts)
                for passage, text, *parts in zip(passages, texts, *fields, strict=True)
            ]
        )

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


def _load_backend(folder: Path) -> Any:
    from transformers import AutoTokenizer

    require_readable(folder)
    try:
        backend = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # damaged files make the library raise anything; it runs no code of theirs
        reason = " ".join(str(error).split())[:SHOWN_CHARACTERS] or type(error).__name__
        raise CacheError(
            f"{folder}: its tokenizer cannot be read ({reason}); save tokenizer.json beside the weights"
        ) from error
    if not backend.is_fast or backend.mask_token_id is None:
        raise CacheError(f"{folder}: needs a fast tokenizer with a mask piece; save tokenizer.json beside it")
    return backend
