"""The commands `bert2ctc cache ...`: parsing only."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.console import config_argument, emit, json_option, set_option, with_roots
from pipeline.paths import Roots


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
@click.option("--name", default="", help="what will mean the cache; default: the config's own name")
@with_roots("data", "cache", "runs")
@json_option
def build(
    config: str,
    overrides: tuple[str, ...],
    dry_run: bool,
    scheduler: str,
    name: str,
    roots: Roots,
    as_json: bool,
) -> None:
    """Score every token of CONFIG's transcripts once; an interrupted build goes on where it was."""
    from pipeline.config import load_config

    loaded = load_config(config, overrides)  # before anything heavy is imported
    from pipeline.stages.cache import build_teacher_cache

    emit(build_teacher_cache(loaded, roots, dry_run, scheduler, name), as_json)


@cache.command("ls")
@with_roots("cache")
@json_option
def list_all(roots: Roots, as_json: bool) -> None:
    """List the published caches with their names."""
    from pipeline.stages.cache import list_teacher_caches

    emit(list_teacher_caches(roots), as_json)


@cache.command("info")
@click.argument("reference")
@click.option("--plot", type=click.Path(path_type=Path), help="draw the mass kept over K: .png, .svg or .pdf")
@with_roots("cache")
@json_option
def info(reference: str, plot: Path | None, roots: Roots, as_json: bool) -> None:
    """What a cache holds: teacher, policy, counts, quality. REFERENCE is a fingerprint, a name or a path."""
    from pipeline.stages.cache import describe_cache

    emit(describe_cache(reference, roots, plot), as_json)


@cache.command("verify")
@click.argument("reference")
@click.option("--recompute", metavar="FRACTION", help="score a random sample again, as 0.1% or 0.001")
@click.option(
    "--config", default="", help="whose texts and teacher; default: REFERENCE, where it is a config"
)
@with_roots("data", "cache", "runs")
@json_option
def verify(reference: str, recompute: str | None, config: str, roots: Roots, as_json: bool) -> None:
    """Check every stored row against its receipt; exit code 1 where a fault is found."""
    from pipeline.stages.cache import verify_teacher_cache

    report = verify_teacher_cache(reference, roots, recompute, config)
    emit(report, as_json)
    if report.result["faults"]:
        raise SystemExit(1)


@cache.command("inspect")
@click.argument("reference")
@click.argument("utterance_ids", metavar="[UTTERANCE_ID]...", nargs=-1)
@click.option("--text", "texts", multiple=True, help="a passage without context; repeatable")
@click.option("--config", default="", help="whose prepared manifests hold the utterances; default: by name")
@click.option("--top", default=5, type=click.IntRange(min=1), show_default=True, help="alternatives shown")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="write a page to this new file")
@with_roots("data", "cache", "runs")
@json_option
def inspect(
    reference: str,
    utterance_ids: tuple[str, ...],
    texts: tuple[str, ...],
    config: str,
    top: int,
    html: Path | None,
    roots: Roots,
    as_json: bool,
) -> None:
    """What the teacher thinks could have stood at each token of an utterance, likeliest first."""
    from pipeline.stages.inspect import InspectRequest, inspect_cache

    if not utterance_ids and not texts:
        raise click.UsageError("name an UTTERANCE_ID, or give --text")
    request = InspectRequest(reference, utterance_ids, texts, config, top, html)
    emit(inspect_cache(request, roots), as_json)


@cache.command("pack")
@click.argument("reference")
@click.argument("file", type=click.Path(path_type=Path))
@with_roots("cache")
@json_option
def pack(reference: str, file: Path, roots: Roots, as_json: bool) -> None:
    """Write a verified cache as one new FILE that vouches for its own bytes."""
    from pipeline.stages.share import pack_teacher_cache

    emit(pack_teacher_cache(reference, file, roots), as_json)


name_option = click.option("--name", default="", help="let this config's name mean the cache from now on")


@cache.command("unpack")
@click.argument("source")
@name_option
@with_roots("cache")
@json_option
def unpack(source: str, name: str, roots: Roots, as_json: bool) -> None:
    """Verify and publish the cache that `pack` wrote to SOURCE, a path or a URL."""
    from pipeline.stages.share import unpack_teacher_cache

    emit(unpack_teacher_cache(source, name, roots), as_json)


@cache.command("push")
@click.argument("reference")
@click.argument("url")
@with_roots("cache")
@json_option
def push(reference: str, url: str, roots: Roots, as_json: bool) -> None:
    """Send a verified cache to the prefix URL (s3://bucket/folder, ...); an unfinished push goes on."""
    from pipeline.stages.share import push_teacher_cache

    emit(push_teacher_cache(reference, url, roots), as_json)


@cache.command("pull")
@click.argument("url")
@name_option
@with_roots("cache")
@json_option
def pull(url: str, name: str, roots: Roots, as_json: bool) -> None:
    """Verify and publish the cache that `push` sent to URL (https:// too); an unfinished pull goes on."""
    from pipeline.stages.share import pull_teacher_cache

    emit(pull_teacher_cache(url, name, roots), as_json)


@cache.command("rm")
@click.argument("reference")
@with_roots("cache")
@json_option
def remove(reference: str, roots: Roots, as_json: bool) -> None:
    """Remove one published cache, and the names that point to it."""
    from pipeline.stages.cache import remove_teacher_cache

    emit(remove_teacher_cache(reference, roots), as_json)


@cache.command("gc")
@click.option("--yes", is_flag=True, help="delete what is listed")
@with_roots("cache")
@json_option
def collect(yes: bool, roots: Roots, as_json: bool) -> None:
    """List leftovers of dead builds; delete them with --yes. Published caches are never touched."""
    from pipeline.stages.cache import collect_cache_garbage

    emit(collect_cache_garbage(roots, delete=yes), as_json)
