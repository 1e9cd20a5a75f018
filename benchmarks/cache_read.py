"""How fast, and in how much memory, a training run reads the teacher's labels: ours and what others use.

    python benchmarks/cache_read.py --cache CACHE [--quick] [--json FILE]

Every way gives the same padded batches of 32 utterances: look-up, gather and padding, from a warm start. The
load time ends where the first batch could be read. The memory is that of each of four data workers (its
proportional share, PSS) beyond a worker without labels, once it has read every label; pages that a forked
worker still shares with its parent are in neither. Bytes per row are those on the disk at equal content, the
smallest that each format's own codecs reach, and ours with everything.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cache_rivals as rivals
import click
import numpy as np
import torch
from cache_checks import checks
from options import cache_option, count_option, json_option, quick_option, write_figures
from rich.console import Console
from rich.table import Table
from synthetic_rows import synthetic_cache
from torch.utils.data import DataLoader, IterableDataset

from teacher_cache.common.sizes import MEBIBYTE, MEGABYTE
from teacher_cache.store import TeacherCacheReader
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.layout import ROW_ARRAYS

BATCH_UTTERANCES = 32
WORKERS = 4
OURS = {"ours_memory": "memory", "ours_memory_map": "map", "ours_lru": "chunks"}
EQUAL_CONTENT = (8, 64)


class Ours:
    """A reader as the benchmark asks for rows."""

    def __init__(self, reader: TeacherCacheReader) -> None:
        self.reader = reader

    def rows(self, digest: bytes) -> tuple[np.ndarray, np.ndarray]:
        targets = self.reader.targets(digest)
        return targets.top_ids, targets.top_logprobs

    def padded(self, digests: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        batch = self.reader.batch(digests)
        ids, logprobs = batch.rows.top_ids, batch.rows.top_logprobs
        return batch.padded(ids, 0, np.int64), batch.padded(logprobs, -np.inf)


class Nothing:
    """A worker without labels."""

    def rows(self, digest: bytes) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1, 1)), np.zeros((1, 1))


def padded_batch(labels: rivals.Labels, digests: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """ids (B, U, k), zeros as padding, and log-probabilities (B, U, k), -inf as padding."""
    if isinstance(labels, Ours):  # one look-up and one gather; the others know one utterance at a time
        return labels.padded(digests)
    rows = [labels.rows(digest) for digest in digests]
    shape = (len(rows), max(len(ids) for ids, _ in rows), rows[0][0].shape[1])
    ids, logprobs = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
    for index, (row_ids, row_logprobs) in enumerate(rows):
        ids[index, : len(row_ids)] = row_ids
        logprobs[index, : len(row_ids)] = row_logprobs
    return ids, logprobs


def content_of(path: Path) -> rivals.Content:
    """What others would keep of a cache."""
    arrays = CacheArrays(path)
    ends = np.cumsum(arrays.read("passage/length"), dtype=np.int64)
    return rivals.Content(
        digests=[digest.tobytes() for digest in arrays.read("passage/digest")],
        start=np.concatenate([[0], ends]),
        ids=arrays.read("row/top_id"),
        steps=arrays.read("row/top_logprob"),
    )


def batch_milliseconds(labels: rivals.Labels, digests: list[bytes], batches: int) -> float:
    """Median over random batches, after a pass over the same ones."""
    random = np.random.default_rng(0)
    chosen = [random.choice(len(digests), BATCH_UTTERANCES) for _ in range(batches)]
    times = []
    for is_warm in (False, True):
        for indices in chosen:
            batch = [digests[index] for index in indices]
            started = time.perf_counter()
            padded_batch(labels, batch)
            if is_warm:
                times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


class _Reading(IterableDataset[float]):
    """Every worker reads every label, waits for the others, and tells its memory."""

    def __init__(self, open_labels: Callable[[], rivals.Labels], digests: list[bytes], barrier: Any) -> None:
        self.open_labels, self.digests, self.barrier = open_labels, digests, barrier

    def __iter__(self) -> Iterator[float]:
        labels = self.open_labels()
        for digest in self.digests:
            labels.rows(digest)
        self.barrier.wait()
        yield own_megabytes()
        self.barrier.wait()  # nobody leaves before the last has counted: shared pages would change hands


def own_megabytes() -> float:
    """This process's proportional share of the memory that it uses (PSS)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / MEGABYTE


class _Held:
    """Labels that the parent has open: forked workers inherit them, spawned ones are sent them."""

    def __init__(self, labels: rivals.Labels) -> None:
        self.labels = labels

    def __call__(self) -> rivals.Labels:
        return self.labels


class _Opened:
    """Labels that every worker opens itself, as HDF5 needs: its handles cannot be sent."""

    def __init__(self, name: str, path: Path, content: rivals.Content) -> None:
        self.name, self.path = name, path
        self.spans = rivals.Content(content.digests, content.start, content.ids[:0], content.steps[:0])

    def __call__(self) -> rivals.Labels:
        return rivals.OPENERS[self.name](self.path, self.spans)


def worker_megabytes(open_labels: Callable[[], rivals.Labels], digests: list[bytes], start: str) -> float:
    """Mean over the workers."""
    context = multiprocessing.get_context(start)
    reading = _Reading(open_labels, digests, context.Barrier(WORKERS))
    loader = DataLoader(
        reading,
        batch_size=None,
        num_workers=WORKERS,
        multiprocessing_context=context,
        generator=torch.Generator(),
    )
    return statistics.fmean(float(value) for value in loader)


def bytes_per_row(path: Path, content: rivals.Content, work: Path) -> dict[str, Any]:
    """At equal content, by k; and ours with everything. `codecs` names what won."""
    arrays, rows = CacheArrays(path), len(content.ids)
    sizes: dict[str, Any] = {"ours_everything": rivals.folder_bytes(path) / rows}
    codecs: dict[str, str] = {}
    for top_k in sorted({min(k, arrays.layout.top_k) for k in EQUAL_CONTENT}):
        narrow = content.narrowed(top_k)
        ours = work / f"ours-{top_k}"
        sizes[f"ours_k{top_k}"] = our_bytes(narrow, ours) / rows
        found = {
            "pickle": rivals.smallest_pickle(rivals.write_pickle(work / "a.pickle", narrow)),
            "hdf5": rivals.smallest_hdf5(work / "a.h5", narrow),
            "zarr_rows": rivals.smallest_zarr(work / "a.zarr", narrow),
        }
        for name, (size, codec) in found.items():
            sizes[f"{name}_k{top_k}"], codecs[f"{name}_k{top_k}"] = size / rows, codec
    everything = sum(rivals.folder_bytes(path / name) for name in ROW_ARRAYS) / rows
    return sizes | {"ours_rows": everything, "codecs": codecs}


def our_bytes(content: rivals.Content, folder: Path) -> int:
    """The two arrays of equal content as our layout and codecs store them."""
    from teacher_cache.store.layout import Layout

    layout = Layout(
        num_rows=len(content.ids),
        num_passages=len(content.digests),
        top_k=content.ids.shape[1],
        temperatures=(1.0,),
        vocab_size=int(content.ids.max()) + 1,
        rows_per_shard=min(-(-len(content.ids) // 1024), 64) * 1024,
    )
    arrays = CacheArrays.create(folder, layout)
    for shard in range(layout.num_shards):
        span = layout.shard_rows(shard)
        arrays.write("row/top_id", (span, slice(None)), content.ids[span])
        arrays.write("row/top_logprob", (span, slice(None)), content.steps[span])
    return sum(rivals.folder_bytes(folder / name) for name in ("row/top_id", "row/top_logprob"))


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    made = make()
    return made, time.perf_counter() - started


def measure(cache: Path, top_k: int, work: Path, batches: int, starts: Sequence[str]) -> dict[str, Any]:
    """The JSON object that is written with --json."""
    content = content_of(cache)
    narrow = content.narrowed(top_k)
    digests = narrow.digests
    labels: dict[str, rivals.Labels] = {}
    load: dict[str, float] = {}
    openers: dict[str, Callable[[], rivals.Labels]] = {}
    half = narrow.ids.nbytes / MEBIBYTE  # the limit in MiB; ids and steps together are twice this

    def ours(backend: str) -> Ours:
        reader = TeacherCacheReader(cache, top_k=top_k, backend=backend, scratch=work, memory_megabytes=half)
        reader.prepare()
        return Ours(reader)

    _, load["ours_memory_map_first_time"] = timed(lambda: ours("map"))
    for name, backend in OURS.items():
        labels[name], load[name] = timed(lambda backend=backend: ours(backend))
        openers[name] = _Held(labels[name])
    for name, write in (
        ("pickle", rivals.write_pickle),
        ("hdf5", rivals.write_hdf5),
        ("zarr_rows", rivals.write_zarr),
    ):
        path = work / f"rival.{name}"
        write(path, narrow)
        labels[name], load[name] = timed(lambda name=name, path=path: rivals.OPENERS[name](path, narrow))
        openers[name] = _Held(labels[name]) if name == "pickle" else _Opened(name, path, narrow)
    few = {"ours_lru", "hdf5", "zarr_rows"}  # slow enough for fewer batches
    batch = {
        name: batch_milliseconds(held, digests, batches // 10 if name in few else batches)
        for name, held in labels.items()
    }
    memory: dict[str, dict[str, float]] = {name: {} for name in labels}
    for start in starts:
        bare = worker_megabytes(_Held(Nothing()), digests, start)
        for name, opened in openers.items():
            memory[name][start] = worker_megabytes(opened, digests, start) - bare
    return {
        "rows": len(narrow.ids),
        "passages": len(digests),
        "top_k": top_k,
        "lru_megabytes": half * MEBIBYTE / MEGABYTE,
        "batch_milliseconds": batch,
        "load_seconds": load,
        "bytes_per_row": bytes_per_row(cache, content, work),
        "loading_checks": checks(cache, top_k),
        "worker_megabytes": memory,
    }


def tables(figures: dict[str, Any]) -> list[Table]:
    reading = Table(
        "", "batch of 32, ms", "load, s", *(f"a worker, MB ({start})" for start in ("fork", "spawn"))
    )
    for name, milliseconds in figures["batch_milliseconds"].items():
        memory = figures["worker_megabytes"][name]
        shown = (f"{memory[start]:.1f}" if start in memory else "-" for start in ("fork", "spawn"))
        reading.add_row(name, f"{milliseconds:.3f}", f"{figures['load_seconds'][name]:.2f}", *shown)
    sizes = Table("on the disk", "bytes a row", "codec")
    codecs = figures["bytes_per_row"]["codecs"]
    for name, size in figures["bytes_per_row"].items():
        if name != "codecs":
            sizes.add_row(name, f"{size:.1f}", codecs.get(name, "ours"))
    return [reading, sizes]


@click.command()
@cache_option(required=False, otherwise="random rows")
@count_option("top-k", 16, "candidates that the batches read")
@click.option("--scratch", type=click.Path(path_type=Path), help="where to write; else the temporary folder")
@quick_option("few batches, and workers by fork only")
@json_option
def main(cache: Path | None, top_k: int, scratch: Path | None, quick: bool, json_file: Path | None) -> None:
    """Compare the ways to read a teacher's labels."""
    if importlib.util.find_spec("h5py") is None:
        raise click.ClickException(
            "h5py, one of the ways, is not here; install it with `.venv/bin/python -m pip install h5py`"
        )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        work = Path(folder)
        cache = cache or synthetic_cache(work / "root", 300 if quick else 3000)
        figures = measure(cache, top_k, work, 30 if quick else 300, ["fork"] if quick else ["fork", "spawn"])
    console = Console()
    for table in tables(figures):
        console.print(table)
    console.print(f"{figures['rows']:,} rows of {figures['passages']:,} passages, k' = {top_k}")
    write_figures(json_file, figures)


warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # four are asked for

if __name__ == "__main__":  # spawned workers import this file again
    main()
