"""How much faster a cache is built by more Dask workers, each with one thread.

    python benchmarks/teacher_scaling.py --text train.txt --vocabulary vocab.txt --workers 1 --workers 2

Each build is the whole of `bert2ctc cache build` over the same transcripts, from an empty folder, in turn and
several rounds. The time is that from the first shard's task to the published cache; starting the workers
costs the same whatever their number, and is told apart.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import click
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
@click.option("--text", type=click.Path(path_type=Path, exists=True), required=True, help="lines: ID TEXT")
@click.option("--vocabulary", type=click.Path(path_type=Path, exists=True), required=True, help="vocab.txt")
@click.option("--size", type=click.Choice(sorted(SIZES)), default="small", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--workers", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--transcripts", default=600, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--quick", is_flag=True, help="100 transcripts, one round")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="write the figures there")
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
    if json_file:
        figures = {
            "rows": rows,
            "model": f"bert-{size}",
            "dtype": dtype,
            "scoring_seconds": median,
            "speed_up": {count: median[first] / median[count] for count in workers},
        }
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":  # Dask's workers import this file again
    main()
