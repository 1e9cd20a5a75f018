"""What it costs a loading of labels that every row is held to its receipt and to the laws.

    python benchmarks/cache_checks.py --cache CACHE [--quick] [--json FILE]

Processor seconds, one step after another: `read` is what zarr takes to decode, `view` what a run makes of it,
`check` digests and laws. The full check is the one that a cache of version 0.1 gets once, over every column.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from options import cache_option, count_option, json_option, quick_option, write_figures
from synthetic_rows import synthetic_cache

from teacher_cache.config import TAIL_POLICIES
from teacher_cache.store.checked_cache import CheckedCache, ColumnDigests
from teacher_cache.store.old_receipts import column_digests
from teacher_cache.store.view import View, rows_of, view_columns

TEN_MILLION = 10_000_000


def checks(path: Path, top_k: int) -> dict[str, Any]:
    """The JSON object that is written with --json."""
    cache = CheckedCache(path)
    digests, rows = column_digests(cache, None), cache.layout.num_rows
    spent = {tail: loading(cache, View(top_k, 1.0, tail), digests) for tail in TAIL_POLICIES}
    full, _ = timed(lambda: [cache.whole_shard(shard) for shard in range(cache.layout.num_shards)])
    return {
        "rows": rows,
        "top_k": top_k,
        "processor_seconds": spent,
        "check_fraction_of_loading": {
            tail: steps["check"] / (steps["read"] + steps["view"]) for tail, steps in spent.items()
        },
        "check_seconds_at_10_million_rows": {
            tail: steps["check"] * TEN_MILLION / rows for tail, steps in spent.items()
        },
        "full_check_seconds": full,
        "full_check_seconds_at_10_million_rows": full * TEN_MILLION / rows,
    }


def loading(cache: CheckedCache, view: View, digests: list[ColumnDigests]) -> dict[str, float]:
    """Processor seconds by step."""
    steps = {"read": 0.0, "check": 0.0, "view": 0.0}
    wanted = view_columns(cache.layout, view)
    for shard in range(cache.layout.num_shards):
        rows = cache.layout.shard_rows(shard)
        seconds, stored = timed(lambda rows=rows: cache.read(rows, wanted))
        steps["read"] += seconds
        for step, act in (
            ("check", lambda held=stored, shard=shard: cache.hold(shard, held, digests[shard], (1.0,))),
            ("view", lambda held=stored: rows_of(held, cache.layout, view)),
        ):
            steps[step] += timed(act)[0]
    return steps


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of this process, and what was returned."""
    started = time.process_time()
    made = act()
    return time.process_time() - started, made


@click.command()
@cache_option(required=False, otherwise="random rows")
@count_option("top-k", 16, "candidates that a run reads")
@click.option("--scratch", type=click.Path(path_type=Path), help="where to write; else the temporary folder")
@quick_option("few rows")
@json_option
def main(cache: Path | None, top_k: int, scratch: Path | None, quick: bool, json_file: Path | None) -> None:
    """Measure what the checks of a loading cost."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        figures = checks(cache or synthetic_cache(Path(folder) / "root", 300 if quick else 30_000), top_k)
    for name, value in figures.items():
        print(f"{name}: {value}")
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
