"""An n-gram model becomes an ARPA file, gzipped where its name ends in .gz."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import PipelineError
from pipeline.language_model.ngram_model import NgramModel
from teacher_cache.common.files import disk_faults_told, whole_file
from teacher_cache.common.progress import progress

ENTRIES_PER_BLOCK = 100_000
GZIP_LEVEL = 1  # a third of the size; higher levels win little and take minutes


def write_arpa(model: NgramModel, path: Path) -> None:
    """Write the file whole or not at all: tabs between fields, log10 to seven digits.

    Raises PipelineError where the disk refuses.
    """
    num_entries = sum(map(len, model.orders))
    with (
        disk_faults_told(path, told_as=PipelineError),
        whole_file(path) as raw,
        progress(f"writing {path.name}", total=num_entries, unit="n-grams") as advance,
    ):
        if path.suffix != ".gz":
            for text, entries in _blocks(model):
                raw.write(text.encode())
                advance(entries)
            return
        with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as packed:  # equal models, equal bytes
            for text, entries in _blocks(model):
                packed.write(text.encode())
                advance(entries)


def _blocks(model: NgramModel) -> Iterator[tuple[str, int]]:
    """Text of the file, piece by piece, with the n-grams that each holds."""
    counts = "".join(f"ngram {length}={len(order)}\n" for length, order in enumerate(model.orders, 1))
    yield f"\\data\\\n{counts}", 0
    words = np.array(model.words, dtype=object)
    for length, order in enumerate(model.orders, 1):
        yield f"\n\\{length}-grams:\n", 0
        with_backoff = "\t%.7g" if length < model.order else ""
        line = f"%.7g\t{' '.join(['%s'] * length)}{with_backoff}\n"
        for first in range(0, len(order), ENTRIES_PER_BLOCK):
            entries = np.arange(first, min(first + ENTRIES_PER_BLOCK, len(order)))
            columns = [order.log_prob[entries].tolist()]
            columns += [words[ids].tolist() for ids in model.word_ids(length, entries).T]
            if with_backoff:
                columns.append(order.backoff[entries].tolist())
            yield "".join([line % row for row in zip(*columns, strict=True)]), len(entries)
    yield "\n\\end\\\n", 0
