"""What is asked of a build, and what it comes to: passages, fingerprint, layout and one task per shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from teacher_cache.build.plan import BuildPlan, Corpus, choose_rows_per_shard
from teacher_cache.build.reuse import ReusablePassages
from teacher_cache.build.shard import ShardTask
from teacher_cache.common.cores import num_cores
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import TranscriptEntry
from teacher_cache.store.checked_cache import CheckedCache
from teacher_cache.store.digest_index import DigestIndex
from teacher_cache.store.layout import Layout
from teacher_cache.store.manifest import (
    Manifest,
    Recipe,
    TeacherIdentity,
    contents_sha256,
    fingerprint,
    recipe_of,
)
from teacher_cache.store.root import building_path, list_caches, require_name
from teacher_cache.teacher.identity import identify_teacher
from teacher_cache.teacher.masked_teacher import require_scorable
from teacher_cache.teacher.tokenizer import EncodedPassages, PassageTokenizer

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to label and with what.

    entries : split -> its utterances, normalised; context is sought within a split only
    name : the config's name, which will mean this cache     normaliser : name, version and settings
    teacher_request_sha256 : of what the config says of its teacher, kept in the manifest
    device : "cpu" or "cuda" (one worker per GPU)     scheduler : Dask address to join; "" starts a cluster
    """

    entries: Mapping[str, Sequence[TranscriptEntry]]
    teacher_folder: Path
    cache_config: CacheConfig
    build_config: BuildConfig
    root: Path
    name: str
    normaliser: Mapping[str, Any]
    teacher_request_sha256: str = ""
    device: str = "cpu"
    scheduler: str = ""

    @property
    def num_workers(self) -> int:
        """Workers to start: as configured, or one per GPU, or one per core and its threads."""
        if self.build_config.workers:
            return self.build_config.workers
        if self.device.startswith("cuda"):
            return max(torch.cuda.device_count(), 1)
        return max(num_cores() // self.build_config.threads_per_worker, 1)


@dataclass
class BuildJob:
    """A request with all that follows from it; what is costly is computed on first use."""

    request: BuildRequest
    corpus: Corpus
    identity: TeacherIdentity
    recipe: Recipe
    fingerprint: str
    reusable: list[ReusablePassages] = field(default_factory=list)

    @staticmethod
    def of(request: BuildRequest) -> BuildJob:
        """Digest the passages and hash the teacher's files; nothing is tokenised or loaded yet.

        Raises CacheError for a name that could not mean the cache: a config is called after its file.
        """
        require_name(request.name)
        corpus = Corpus.of(request.entries, request.cache_config)
        identity = replace(
            identify_teacher(request.teacher_folder), request_sha256=request.teacher_request_sha256
        )
        recipe = recipe_of(identity, request.cache_config, request.normaliser)
        return BuildJob(request, corpus, identity, recipe, fingerprint(recipe, corpus.digests))

    @property
    def building(self) -> Path:
        """Where the build works."""
        return building_path(self.request.root, self.fingerprint)

    @cached_property
    def tokenizer(self) -> PassageTokenizer:
        """The teacher's; its weights are loaded by those who score, and only looked at here."""
        require_scorable(self.request.teacher_folder)
        return PassageTokenizer.load(self.request.teacher_folder)

    @cached_property
    def tokens(self) -> EncodedPassages:
        """The passages' tokens; workers are sent those of their shard, and tokenise nothing again."""
        config = self.request.cache_config
        tokens = self.tokenizer.encode(self.corpus.passages, config.passage_end)
        self.tokenizer.require_ranked(tokens, config.ranked_pieces)
        return tokens

    @cached_property
    def is_unranked(self) -> np.ndarray:
        """Bool (V,), the pieces that are no candidates under the request's policy."""
        return self.tokenizer.is_unranked(self.request.cache_config.ranked_pieces)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Int64 (M,), rows of each passage."""
        return self.tokens.own_length

    @cached_property
    def starts(self) -> np.ndarray:
        """Int64 (M,), first row of each passage."""
        starts: np.ndarray = np.cumsum(self.lengths) - self.lengths
        return starts

    def plan(self) -> BuildPlan:
        """A fresh plan."""
        build = self.request.build_config
        num_rows = int(self.lengths.sum())
        return BuildPlan(
            fingerprint=self.fingerprint,
            num_rows=num_rows,
            num_passages=len(self.lengths),
            rows_per_shard=build.rows_per_shard or choose_rows_per_shard(num_rows, self.request.num_workers),
            batch_tokens=build.batch_tokens,
            threads=build.threads_per_worker,
            dtype=self.request.cache_config.dtype,
            device_type=self.request.device.partition(":")[0],
            reused=tuple(held.path.name for held in self.reusable),
        )

    def layout(self, plan: BuildPlan) -> Layout:
        """The sizes of the arrays."""
        config = self.request.cache_config
        return Layout(
            num_rows=plan.num_rows,
            num_passages=plan.num_passages,
            top_k=self.tokenizer.rankable(config.top_k, config.ranked_pieces),
            temperatures=self.recipe.temperatures,
            vocab_size=len(self.tokenizer.vocabulary),
            rows_per_shard=plan.rows_per_shard,
        )

    def manifest(self, layout: Layout) -> Manifest:
        """What the cache says of itself, before anything of it was measured."""
        return Manifest(
            fingerprint=self.fingerprint,
            recipe=self.recipe,
            teacher=self.identity,
            layout=layout,
            contents_sha256=contents_sha256(self.corpus.digests),
        )

    @cached_property
    def source(self) -> np.ndarray:
        """Int64 (M,): which of `reusable` gives a passage's rows; -1 where the teacher must score them."""
        source, index = np.full(len(self.corpus.passages), -1), DigestIndex(self.corpus.digests)
        for number, held in enumerate(self.reusable):
            source[index.positions(held.digests)] = number
        return source

    def task(self, plan: BuildPlan, shard: int) -> ShardTask:
        """The shard's passages, those cut by its edges included."""
        rows = self.layout(plan).shard_rows(shard)
        first = int(np.searchsorted(self.starts, rows.start, side="right")) - 1
        last = int(np.searchsorted(self.starts, rows.stop, side="left"))
        source = self.source[first:last]
        return ShardTask(
            building=self.building,
            shard=shard,
            num_rows=rows.stop - rows.start,
            first_text=self.corpus.passages[first].text,
            digests=self.corpus.digests[first:last],
            lengths=self.lengths[first:last],
            tokens=self.tokens.take(first + np.flatnonzero(source < 0)),
            skipped_rows=rows.start - int(self.starts[first]),
            teacher_folder=self.request.teacher_folder.resolve(),
            config=self.request.cache_config,
            batch_tokens=plan.batch_tokens,
            threads=plan.threads,
            copied={
                self.reusable[number].path.resolve(): np.flatnonzero(source == number)
                for number in np.unique(source[source >= 0])
            },
        )

    def covering_cache(self, say: Say) -> Path | None:
        """A published cache of this recipe that holds every passage; the one of this fingerprint first.

        Raises CacheError where this fingerprint's folder holds something else: what is built could not be
        published. Its tables are held to the manifest; its rows are by whoever reads them.
        """
        entries = list_caches(self.request.root)
        for entry in sorted(entries, key=lambda entry: entry.fingerprint != self.fingerprint):
            if entry.manifest is None and entry.fingerprint == self.fingerprint:
                raise CacheError(entry.fault)
            if entry.manifest is None or entry.manifest.recipe.digest() != self.recipe.digest():
                continue
            try:
                held = DigestIndex(CheckedCache(entry.path, entry.manifest).digests)
                if (held.positions(self.corpus.digests) >= 0).all():
                    return entry.path
            except CacheError as error:
                if entry.fingerprint == self.fingerprint:
                    raise
                say(f"not reused: {error}")
        return None
