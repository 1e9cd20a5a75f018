"""What one per cent more text costs a cache: rows scored and copied, seconds, and what the copies differ by.

    python benchmarks/cache_growth.py --teacher FOLDER --text train.txt

Three whole builds, as `bert2ctc cache build` does them with one worker of one thread: some transcripts, then
one per cent more into the same root, then the larger text into an empty root. Differences are between the
stored log-probabilities of the last two. Told beside them is how much of a shard's time is writing: the rows
of the fresh build are written and published again, apart from the teacher, and timed against its receipts.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from options import (
    count_option,
    dtype_option,
    json_option,
    quick_option,
    teacher_option,
    text_option,
    write_figures,
)
from rich.console import Console
from rich.table import Table
from teacher_throughput import read_transcripts

from pipeline.normaliser import normaliser_identity
from student.data.manifest import Utterance
from teacher_cache.build.request import BuildRequest
from teacher_cache.build.run import BuildResult, build_cache
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.layout import ROW_ARRAYS, dequantise
from teacher_cache.store.manifest import read_manifest
from teacher_cache.store.root import building_path
from teacher_cache.store.rows import decode
from teacher_cache.store.writer import CacheWriter, publish

BUILDS = {"first": "first", "grown": "1 % more, same root", "fresh": "1 % more, empty root"}


def built(root: Path, teacher: Path, texts: list[str], dtype: str) -> BuildResult:
    """One build, with the plan that a build of one worker chooses."""
    entries = [
        Utterance(id=str(number), audio="", text=text, seconds=0.0) for number, text in enumerate(texts)
    ]
    request = BuildRequest(
        entries={"train": entries},
        teacher_folder=teacher,
        cache_config=CacheConfig(dtype=dtype),
        build_config=BuildConfig(workers=1, threads_per_worker=1),
        root=root,
        name="growth",
        normaliser=normaliser_identity(),
    )
    return build_cache(request, say=lambda line: None)


def largest_difference(one: Path, other: Path) -> float:
    """Of the stored log-probabilities of two caches of the same passages, column by column, in nats."""
    caches = CacheArrays(one), CacheArrays(other)
    steps, others = (dequantise(arrays.read("row/top_logprob")) for arrays in caches)
    gold, golds = (arrays.read("row/gold_logprob") for arrays in caches)
    return float(max(np.abs(steps - others).max(), np.abs(gold - golds).max()))


def writing_seconds(cache: Path, root: Path) -> dict[str, float]:
    """Seconds of writing every shard of a cache once more, and of publishing what was written.

    write : laws, encoding, Zarr, checksum and receipt, which a worker does between two shards
    publish : reading everything back, checks, flush and rename, once, at the end of a build
    """
    manifest, arrays = read_manifest(cache), CacheArrays(cache)
    building = building_path(root, manifest.fingerprint)
    writer = CacheWriter.create(building, arrays.layout)
    for tables in ("passage", "vocabulary"):
        shutil.copytree(cache / tables, building / tables, dirs_exist_ok=True)
    write = 0.0
    for shard in range(arrays.layout.num_shards):
        span = arrays.layout.shard_rows(shard)
        rows = decode({name: arrays.read(name, span) for name in ROW_ARRAYS})
        started = time.perf_counter()
        writer.write_shard(shard, rows)
        write += time.perf_counter() - started
    started = time.perf_counter()
    publish(building, root, manifest)
    return {"write": write, "publish": time.perf_counter() - started}


def measure(folder: Path, teacher: Path, texts: list[str], extra: int, dtype: str) -> dict[str, Any]:
    """The figures; the last `extra` transcripts are what is added."""
    roots = {"first": folder / "grown", "grown": folder / "grown", "fresh": folder / "fresh"}
    results = {
        name: built(root, teacher, texts[:-extra] if name == "first" else texts, dtype)
        for name, root in roots.items()
    }
    fresh = read_manifest(results["fresh"].path)
    return {
        "builds": {
            name: {
                "rows_scored": result.rows_scored,
                "rows_copied": result.rows_reused,
                "seconds": result.seconds,
            }
            for name, result in results.items()
        },
        "largest_difference": largest_difference(results["grown"].path, results["fresh"].path),
        "shards": fresh.layout.num_shards,
        "scoring_seconds": fresh.build["worker_seconds"],
        **{
            f"{act}_seconds": seconds
            for act, seconds in writing_seconds(results["fresh"].path, folder / "again").items()
        },
    }


@click.command()
@teacher_option
@text_option
@dtype_option("float32")
@count_option("transcripts", 3000, "of the first build")
@count_option("seed", 1)
@quick_option("100 transcripts")
@json_option
def main(
    teacher: Path,
    text: Path,
    dtype: str,
    transcripts: int,
    seed: int,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Compare a grown cache with a fresh one, and writing with scoring."""
    count = 100 if quick else transcripts
    extra = max(count // 100, 1)
    texts = read_transcripts(text, count + extra, seed)
    if len(texts) < count + extra:
        raise click.ClickException(
            f"{text} holds {len(texts)} transcripts, not {count + extra}; lower --transcripts"
        )
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), teacher, texts, extra, dtype)
    table = Table("build", "rows scored", "rows copied", "seconds")
    for name, build in figures["builds"].items():
        rows = [f"{build[key]:,}" for key in ("rows_scored", "rows_copied")]
        table.add_row(BUILDS[name], *rows, f"{build['seconds']:.1f}")
    share = figures["write_seconds"] / (figures["write_seconds"] + figures["scoring_seconds"])
    console = Console()
    console.print(table)
    console.print(f"grown against fresh: at most {figures['largest_difference']:.1e} nats")
    console.print(
        f"{figures['shards']} shards: scoring {figures['scoring_seconds']:.1f} s, writing "
        f"{figures['write_seconds']:.2f} s ({share:.1%}), publishing {figures['publish_seconds']:.2f} s once"
    )
    write_figures(json_file, figures)


if __name__ == "__main__":  # Dask's worker imports this file again
    main()
