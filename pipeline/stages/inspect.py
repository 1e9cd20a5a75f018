"""The stage of `bert2ctc cache inspect`: which passage an utterance is, and what the cache says of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.config import ExperimentConfig, load_config
from pipeline.console import Report
from pipeline.corpus.prepared import sound_preparation
from pipeline.errors import PipelineError
from pipeline.paths import Roots
from pipeline.report.inspect_page import inspection_page
from pipeline.report.inspect_table import inspection_lines
from student.data.manifest import read_manifest
from teacher_cache import store
from teacher_cache.common.files import write_whole
from teacher_cache.config import CacheConfig
from teacher_cache.passages import Passage, passages_of
from teacher_cache.store.inspection import inspect_passages


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """What to show: utterances of a config's manifests and texts without context, `top` candidates each."""

    reference: str
    utterance_ids: tuple[str, ...]
    texts: tuple[str, ...]
    config: str
    top: int
    html: Path | None


def inspect_cache(request: InspectRequest, roots: Roots) -> Report:
    """Each token with its alternatives; on a page as well where `html` names a new file."""
    if request.html is not None and request.html.exists():
        raise PipelineError(f"{request.html} exists; name another file, or remove it first")
    path = store.resolve(roots.cache, request.reference)
    manifest = store.read_manifest(path)
    passages: dict[str, Passage] = {}
    if request.utterance_ids:
        config = _config_of(request, path, roots)
        passages |= _passages_named(request.utterance_ids, config, roots, manifest.recipe)
    passages |= {f'"{text}"': Passage("", " ".join(text.split()), "") for text in request.texts}
    inspected = inspect_passages(path, passages, request.top)
    lines = inspection_lines(inspected)
    if request.html is not None:
        write_whole(request.html, inspection_page(inspected, manifest))
        lines.append(f"page: {request.html}")
    result = {"fingerprint": manifest.fingerprint, "utterances": [asdict(shown) for shown in inspected]}
    return Report(result, lines)


def _passages_named(
    utterance_ids: tuple[str, ...], config: ExperimentConfig, roots: Roots, recipe: store.Recipe
) -> dict[str, Passage]:
    """Utterance id -> passage under the cache's own context policy; PipelineError for an unknown id."""
    policy = CacheConfig(context=recipe.context, context_words=recipe.context_words)
    prepared = sound_preparation(config, roots)
    known: dict[str, Passage] = {}
    for split in config.data.splits:
        entries = read_manifest(prepared / f"{split}.jsonl")
        if any(entry.id in utterance_ids for entry in entries):
            found = passages_of(entries, policy)
            known |= {entry.id: passage for entry, passage in zip(entries, found, strict=True)}
    unknown = [name for name in utterance_ids if name not in known]
    if unknown:
        raise PipelineError(
            f"no utterance {', '.join(unknown)} in the manifests of config {config.name!r} "
            f"({', '.join(config.data.splits)}); their ids are in {prepared}"
        )
    return {name: known[name] for name in utterance_ids}


def _config_of(request: InspectRequest, path: Path, roots: Roots) -> ExperimentConfig:
    """The config asked for, else the one that the reference or one of the cache's names names."""
    if request.config:
        return load_config(request.config)
    names = [entry.names for entry in store.list_caches(roots.cache) if entry.fingerprint == path.name]
    for name in (request.reference, *(names[0] if names else ())):
        try:
            return load_config(name)
        except PipelineError:
            continue
    raise PipelineError(
        f"no config is named like cache {request.reference!r}; say whose utterances are meant with --config"
    )
