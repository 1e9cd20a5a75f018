"""CTC's units: SentencePiece pieces, every id raised by one because 0 is the blank."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from student.config import UNIT_MODEL_TYPES
from student.errors import StudentError
from student.files import FILES, write_bytes, write_text
from teacher_cache.common.small_files import is_there

BLANK_ID = 0


class Units:
    """Text to unit ids and back, from the bytes of a SentencePiece model.

    `size` counts the blank. Ids 1..size - 1 are pieces. Raises StudentError for bytes that are no model.
    """

    def __init__(self, model_bytes: bytes) -> None:
        self.model_bytes = model_bytes
        try:
            if not model_bytes:  # which SentencePiece takes for "not yet"
                raise RuntimeError("empty")
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except RuntimeError as error:
            raise StudentError(
                f"{len(model_bytes)} bytes are no SentencePiece model ({error}); "
                "rerun `bert2ctc data prepare`"
            ) from None

    @classmethod
    def from_file(cls, path: Path) -> Units:
        """The units of a `.model` file."""
        if not is_there(path):
            raise StudentError(f"{path}: no units; make them with `bert2ctc data prepare`")
        content = FILES.bytes(path, "rerun `bert2ctc data prepare`")
        try:
            return cls(content)
        except StudentError as error:
            raise StudentError(f"{path}: {error}") from None

    @property
    def size(self) -> int:
        """CTC outputs: the blank and every piece."""
        return int(self._processor.get_piece_size()) + 1

    @property
    def pieces(self) -> list[str]:
        """The pieces by unit id; the blank is ""."""
        return ["", *(self._processor.id_to_piece(piece) for piece in range(self.size - 1))]

    def encode(self, text: str) -> list[int]:
        """Unit ids of normalised text, never the blank."""
        return [piece + 1 for piece in self._processor.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of unit ids; blanks are skipped."""
        return str(self._processor.decode([unit - 1 for unit in ids if unit != BLANK_ID]))


def train_units(
    texts: Iterable[str], path: Path, vocabulary_size: int, model_type: str = "unigram"
) -> tuple[Units, int]:
    """Train units on normalised texts, write the model to `path` and its pieces beside it as `.vocab`.

    Returns the units and their number of pieces, less than `vocabulary_size` where the texts hold no more.
    The same texts in the same order give the same file. No normalisation, every character covered.
    Raises StudentError where there is no text, or too small a size for its characters.
    """
    if model_type not in UNIT_MODEL_TYPES:
        raise StudentError(f"unit model type {model_type!r} is not one of {UNIT_MODEL_TYPES}")
    lines = [text for text in texts if text.strip()]
    if not lines:
        raise StudentError("no text to train units on; is the training split empty?")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocabulary_size,
            model_type=model_type,
            character_coverage=1.0,
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            hard_vocab_limit=False,
            unk_surface="",
            num_threads=1,
            max_sentence_length=1_000_000,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StudentError(
            f"cannot train {vocabulary_size} units ({reason}); change data.unit_vocabulary_size"
        ) from None
    units = Units(model.getvalue())
    write_text(path.with_suffix(".vocab"), "".join(f"{piece}\n" for piece in units.pieces[1:]))
    write_bytes(path, units.model_bytes)
    return units, units.size - 1
