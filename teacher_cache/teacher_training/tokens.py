"""Tokenised sentences: the text of a training in its scratch folder, prepared once, read ever after."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from teacher_cache.common.cores import num_cores
from teacher_cache.common.files import FILES, disk_faults_told, publish_folder, write_json
from teacher_cache.errors import CacheError
from teacher_cache.teacher.identity import identify_teacher
from teacher_cache.teacher_training.request import HELD_OUT_SENTENCES, TeacherTrainingRequest
from teacher_cache.teacher_training.text import (
    SentenceCounts,
    SentenceRules,
    is_held_out,
    sample_sentences,
    sentence_hash,
)
from teacher_cache.teacher_training.vocabulary import make_tokenizer

SENTENCES_PER_CALL = 20_000


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Tokenised sentences, one behind the other: ids int32 (N,), start int64 (n + 1,)."""

    ids: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.start) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Int32 (L,), special pieces included."""
        return self.ids[self.start[index] : self.start[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Int64 (n,), tokens of each sentence."""
        return np.diff(self.start)

    def save(self, folder: Path, name: str) -> None:
        """Write two plain arrays, `<name>.ids.npy` and `<name>.start.npy`."""
        np.save(folder / f"{name}.ids.npy", self.ids)
        np.save(folder / f"{name}.start.npy", self.start)

    @staticmethod
    def load(folder: Path, name: str) -> TokenTable:
        """What `save` wrote."""
        parts = (np.load(folder / f"{name}.{part}.npy", allow_pickle=False) for part in ("ids", "start"))
        return TokenTable(*parts)


def tokenise(tokenizer: Any, sentences: Sequence[str], max_tokens: int) -> TokenTable:
    """The sentences in order, but for those of more than max_tokens tokens, special pieces included.

    A tokenizer.json may order padding or cutting to a fixed length (sentence encoders' do): not here.
    """
    parts: list[np.ndarray] = []
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    for first in range(0, len(sentences), SENTENCES_PER_CALL):
        chunk = list(sentences[first : first + SENTENCES_PER_CALL])
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(chunk)
        parts += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
    parts = [part for part in parts if len(part) <= max_tokens]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
    return TokenTable(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


MUCH_TEXT_BYTES = 8_000_000  # as it lies on the disk: below, processes take longer to start than to cut


@dataclass(frozen=True, slots=True)
class Material:
    """A tokenizer and the tokens of three sets of sentences that share none.

    training and held_out : of the text     transcripts : some that will be labelled, for figures only
    """

    tokenizer: Any
    training: TokenTable
    held_out: TokenTable
    transcripts: TokenTable
    sentences: SentenceCounts


def prepare_material(request: TeacherTrainingRequest, base: Path | None, folder: Path) -> Material:
    """What `folder` holds, made at the first call; the folder appears whole or not at all.

    base : the folder of the model that training goes on from, whose tokenizer is used
    Raises CacheError for text or a vocabulary that cannot be used.
    """
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _prepare(request, base, partial)
        with disk_faults_told(folder):
            publish_folder(partial, folder)
    return Material(
        _tokenizer_of(folder),
        TokenTable.load(folder, "training"),
        TokenTable.load(folder, "held_out"),
        TokenTable.load(folder, "transcripts"),
        FILES.record(SentenceCounts, folder / "sentences.json", f"delete {folder} and run again"),
    )


def _prepare(request: TeacherTrainingRequest, base: Path | None, folder: Path) -> None:
    config = request.config
    rules = SentenceRules(
        normalise=request.normalise,
        unspeakable=request.unspeakable,
        max_words=config.max_words,
        overlap_words=config.overlap_words,
    )
    # Enough to train on without repeats, and to hold enough out.
    num_trained = math.ceil(config.max_steps * config.batch_size / (1 - config.held_out_fraction))
    limit = max(num_trained, math.ceil(HELD_OUT_SENTENCES / config.held_out_fraction))
    text_bytes = sum(path.stat().st_size for path in request.text_paths if path.is_file())
    workers = num_cores() if text_bytes > MUCH_TEXT_BYTES else 1
    sample, counts = sample_sentences(
        request.text_paths, rules, request.transcripts, limit, config.seed, workers
    )
    chosen: dict[str, list[str]] = {"training": [], "held_out": [], "transcripts": _some_transcripts(request)}
    for sentence in sample:
        held_out = is_held_out(sentence, config.held_out_fraction, config.seed)
        chosen["held_out" if held_out else "training"].append(sentence)
    if base is None:
        tokenizer = make_tokenizer(config.vocabulary, config.vocabulary_size, request.vocabulary_path, sample)
        tokenizer.model_max_length = max_tokens = config.max_positions
    else:
        tokenizer, max_tokens = _tokenizer_of(base), identify_teacher(base).max_tokens
    tables = {name: tokenise(tokenizer, sentences, max_tokens) for name, sentences in chosen.items()}
    if not len(tables["training"]) or not len(tables["held_out"]):
        raise CacheError(
            f"of {len(sample)} sentences {len(tables['training'])} are left to train on and "
            f"{len(tables['held_out'])} to hold out; give more text, or raise held_out_fraction"
        )
    counts.too_long = len(sample) - len(tables["training"]) - len(tables["held_out"])
    with disk_faults_told(folder, kinds=Exception):  # tokenizers raise their own
        folder.mkdir(parents=True)
        for name, table in tables.items():
            table.save(folder, name)
        tokenizer.save_pretrained(folder)
    write_json(folder / "sentences.json", asdict(counts))


def _some_transcripts(request: TeacherTrainingRequest) -> list[str]:
    by_hash = sorted(set(request.transcripts), key=lambda text: sentence_hash(text, request.config.seed))
    return by_hash[:HELD_OUT_SENTENCES]


def _tokenizer_of(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
