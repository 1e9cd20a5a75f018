"""The commands `bert2ctc cache ...`: parsing only."""

from __future__ import annotations

import click

from pipeline.console import config_argument, emit, json_option, set_option, with_roots
from pipeline.roots import Roots


@click.group()
def cache() -> None:
    """The store of the teacher's probabilities."""


@cache.command("build")
@config_argument
@set_option
@click.option("--dry-run", is_flag=True, help="rows, shards, bytes and expected time only")
@click.option(
    "--scheduler", default="", metavar="ADDRESS", help="join this Dask scheduler instead of starting one"
)
@with_roots("data", "cache", "runs")
@json_option
def build(
    config: str, overrides: tuple[str, ...], dry_run: bool, scheduler: str, roots: Roots, as_json: bool
) -> None:
    """Score every token of CONFIG's transcripts once; an interrupted build goes on where it was."""
    from pipeline.cache_stages import build_teacher_cache
    from pipeline.config import load_config

    emit(build_teacher_cache(load_config(config, overrides), roots, dry_run, scheduler), as_json)


@cache.command("ls")
@with_roots("cache")
@json_option
def list_all(roots: Roots, as_json: bool) -> None:
    """List the published caches with their names."""
    from pipeline.cache_stages import list_teacher_caches

    emit(list_teacher_caches(roots), as_json)


@cache.command("info")
@click.argument("reference")
@with_roots("cache")
@json_option
def info(reference: str, roots: Roots, as_json: bool) -> None:
    """What a cache holds: teacher, policy, counts, quality. REFERENCE is a fingerprint, a name or a path."""
    from pipeline.cache_stages import describe_cache

    emit(describe_cache(reference, roots), as_json)


@cache.command("verify")
@click.argument("reference")
@with_roots("cache")
@json_option
def verify(reference: str, roots: Roots, as_json: bool) -> None:
    """Check every stored row against its receipt; exit code 1 where a fault is found."""
    from pipeline.cache_stages import verify_teacher_cache

    report = verify_teacher_cache(reference, roots)
    emit(report, as_json)
    if report.result["faults"]:
        raise SystemExit(1)


@cache.command("rm")
@click.argument("reference")
@with_roots("cache")
@json_option
def remove(reference: str, roots: Roots, as_json: bool) -> None:
    """Remove one published cache, and the names that point to it."""
    from pipeline.cache_stages import remove_teacher_cache

    emit(remove_teacher_cache(reference, roots), as_json)


@cache.command("gc")
@click.option("--yes", is_flag=True, help="delete what is listed")
@with_roots("cache")
@json_option
def collect(yes: bool, roots: Roots, as_json: bool) -> None:
    """List leftovers of dead builds; delete them with --yes. Published caches are never touched."""
    from pipeline.cache_stages import collect_cache_garbage

    emit(collect_cache_garbage(roots, delete=yes), as_json)
