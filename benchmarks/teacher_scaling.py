"""How much faster a cache is built by more Dask workers, each with one thread.

    python benchmarks/teacher_scaling.py --text train.txt --vocabulary vocab.txt --workers 1 --workers 2

Each build is the whole of `bert2ctc cache build` over the same transcripts, from an empty folder, in turn and
several rounds. The time is that from the first shard's task to the published cache; starting the workers
costs the same whatever their number, and is reported apart.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import click
from options import (
    count_option,
    dtype_option,
    json_option,
    quick_option,
    text_option,
    vocabulary_option,
    write_figures,
)
from rich.console import Console
from rich.table import Table
from teacher_throughput import SIZES, make_teacher, read_transcripts

from pipeline.normaliser import normaliser_identity
from student.data.manifest import Utterance
from teacher_cache.build.request import BuildRequest
from teacher_cache.build.run import build_cache
from teacher_cache.config import BuildConfig, CacheConfig


def build_seconds(
    root: Path, teacher: Path, texts: list[str], dtype: str, workers: int
) -> tuple[float, float, int]:
    """Seconds until the workers stand, seconds from there to the published cache, and rows."""
    entries = [Utterance(str(number), "", text, 0.0) for number, text in enumerate(texts)]
    request = BuildRequest(
        entries={"train": entries},
        teacher_folder=teacher,
        cache_config=CacheConfig(dtype=dtype),
        build_config=BuildConfig(workers=workers, threads_per_worker=1, rows_per_shard=1024),
        root=root,
        name="scaling",
        normaliser=normaliser_identity(),
    )
    said: list[float] = []
    started = time.perf_counter()
    result = build_cache(request, say=lambda line: said.append(time.perf_counter()))
    ended = time.perf_counter()
    return said[-1] - started, ended - said[-1], result.rows_scored


@click.command()
@text_option
@vocabulary_option
@click.option("--size", type=click.Choice(sorted(SIZES)), default="small", show_default=True)
@dtype_option("bfloat16")
@click.option("--workers", multiple=True, type=int, default=(1, 2), show_default=True)
@count_option("transcripts", 600)
@count_option("rounds", 2)
@quick_option("100 transcripts, one round")
@json_option
def main(
    text: Path,
    vocabulary: Path,
    size: str,
    dtype: str,
    workers: tuple[int, ...],
    transcripts: int,
    rounds: int,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Compare builds by the number of their workers."""
    texts = read_transcripts(text, 100 if quick else transcripts, seed=1)
    seconds: dict[int, list[float]] = {count: [] for count in workers}
    starting: dict[int, list[float]] = {count: [] for count in workers}
    rows = 0
    with tempfile.TemporaryDirectory() as folder:
        teacher = make_teacher(Path(folder) / "teacher", vocabulary, size)
        for turn in range(1 if quick else rounds):
            for count in workers:
                root = Path(folder) / f"{count}-{turn}"
                ready, scoring, rows = build_seconds(root, teacher, texts, dtype, count)
                starting[count].append(ready)
                seconds[count].append(scoring)
    median = {count: statistics.median(times) for count, times in seconds.items()}
    first = workers[0]
    table = Table("workers", "start, s", "scoring, s", "rows/s", f"faster than {first}")
    for count in workers:
        table.add_row(
            str(count),
            f"{statistics.median(starting[count]):.1f}",
            f"{median[count]:.1f}",
            f"{rows / median[count]:.1f}",
            f"{median[first] / median[count]:.2f} x",
        )
    console = Console()
    console.print(table)
    console.print(f"{rows:,} rows, bert-{size}, {dtype}, one thread a worker")
    figures = {
        "rows": rows,
        "model": f"bert-{size}",
        "dtype": dtype,
        "scoring_seconds": median,
        "speed_up": {count: median[first] / median[count] for count in workers},
    }
    write_figures(json_file, figures)


if __name__ == "__main__":  # Dask's workers import this file again
    main()
