"""A teacher made of random numbers: full distributions in float64, and caches built from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.normaliser import normaliser_identity
from teacher_cache.config import CacheConfig
from teacher_cache.passages import Passage
from teacher_cache.store.layout import Layout
from teacher_cache.store.manifest import Manifest, TeacherIdentity, contents_sha256, fingerprint, recipe_of
from teacher_cache.store.root import building_path
from teacher_cache.store.rows import RowBlock
from teacher_cache.store.writer import CacheWriter, publish

NORMALISER = normaliser_identity()
CONFIG = CacheConfig(top_k=24, temperatures=(1.0, 2.0))  # of `three_shards`


@dataclass(frozen=True)
class SyntheticTeacher:
    """log p over V pieces for every word of a passage, a function of passage and word alone."""

    vocab_size: int = 90
    sharpness: float = 3.0
    seed: int = 0
    num_special: int = 2  # the first ids; never ranked

    def logprobs(self, passage: Passage) -> np.ndarray:
        """float64 (words, V)"""
        random = np.random.default_rng([self.seed, *passage.digest])
        logits = self.sharpness * random.standard_normal((len(passage.text.split()), self.vocab_size))
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    def pieces(self) -> list[str]:
        return [f"piece{number}é" for number in range(self.vocab_size)]

    def gold(self, passage: Passage) -> np.ndarray:
        random = np.random.default_rng([self.seed + 1, *passage.digest])
        return random.integers(0, self.vocab_size, len(passage.text.split()))

    def rows(self, passage: Passage, top_k: int, temperatures: Sequence[float]) -> RowBlock:
        logprobs, gold = self.logprobs(passage), self.gold(passage)
        rankable = logprobs.copy()
        rankable[:, : self.num_special] = -np.inf
        order = np.argsort(-rankable, axis=1, kind="stable")[:, :top_k]
        outside = logprobs.copy()
        np.put_along_axis(outside, order, -np.inf, axis=1)
        scaled = [np.logaddexp.reduce(logprobs / t, axis=1) for t in temperatures]
        tails = [
            np.logaddexp.reduce(outside / t, axis=1) - norm
            for t, norm in zip(temperatures, scaled, strict=True)
        ]
        return RowBlock(
            gold_id=gold,
            gold_logprob=np.take_along_axis(logprobs, gold[:, None], axis=1)[:, 0].astype(np.float32),
            top_id=order,
            top_logprob=np.take_along_axis(logprobs, order, axis=1).astype(np.float32),
            lognorm=np.stack(scaled, axis=1).astype(np.float32),
            tail_logprob=np.stack(tails, axis=1).astype(np.float32),
        )


@dataclass(frozen=True)
class Plan:
    """Everything `write` needs beside a folder: what a build would have decided first."""

    passages: tuple[Passage, ...]  # sorted by digest
    teacher: SyntheticTeacher
    config: CacheConfig
    layout: Layout
    rows: RowBlock

    @property
    def digests(self) -> np.ndarray:
        joined = b"".join(passage.digest for passage in self.passages)
        return np.frombuffer(joined, np.uint8).reshape(-1, 16)

    @property
    def manifest(self) -> Manifest:
        identity = TeacherIdentity(
            name="synthetic",
            model="",
            revision="",
            licence="CC0-1.0",
            files_sha256={"model.safetensors": str(self.teacher.seed)},
            vocab_size=self.teacher.vocab_size,
            max_tokens=512,
        )
        recipe = recipe_of(identity, self.config, NORMALISER)
        return Manifest(
            fingerprint=fingerprint(recipe, self.digests),
            recipe=recipe,
            teacher=identity,
            layout=self.layout,
            contents_sha256=contents_sha256(self.digests),
        )


def passages_named(count: int, seed: int = 0, max_words: int = 12) -> list[Passage]:
    random = np.random.default_rng(seed)
    words = [f"w{number}" for number in range(40)]
    texts = {
        f"{number} " + " ".join(random.choice(words, random.integers(0, max_words)))
        for number in range(count)
    }
    return [Passage("", text.strip(), "") for text in sorted(texts)]


def plan_of(
    passages: Sequence[Passage],
    teacher: SyntheticTeacher | None = None,
    config: CacheConfig | None = None,
    rows_per_shard: int = 1024,
) -> Plan:
    teacher = teacher or SyntheticTeacher()
    config = config or CacheConfig(top_k=24)
    ordered = tuple(sorted(passages, key=lambda passage: passage.digest))
    rows = RowBlock.concatenate(
        [teacher.rows(passage, config.top_k, config.temperatures) for passage in ordered]
    )
    layout = Layout(
        num_rows=len(rows),
        num_passages=len(ordered),
        top_k=config.top_k,
        temperatures=config.temperatures,
        vocab_size=teacher.vocab_size,
        rows_per_shard=rows_per_shard,
    )
    return Plan(ordered, teacher, config, layout, rows)


def three_shards(config: CacheConfig = CONFIG, seed: int = 0) -> Plan:
    """What most tests of the store read: 400 passages, in three shards of 1,024 rows."""
    plan = plan_of(passages_named(400, seed), config=config)
    assert plan.layout.num_shards == 3
    return plan


def write(root: Path, plan: Plan, shards: Sequence[int] | None = None) -> Path:
    """A build with the given shards written (None: all), not published."""
    building = building_path(root, plan.manifest.fingerprint)
    writer = CacheWriter.create(building, plan.layout)
    lengths = np.array([len(passage.text.split()) for passage in plan.passages])
    writer.write_passages(np.cumsum(lengths) - lengths, lengths, plan.digests)
    pieces = plan.teacher.pieces()
    special = np.arange(plan.layout.vocab_size) < plan.teacher.num_special
    writer.write_vocabulary(pieces, special)
    for shard in range(plan.layout.num_shards) if shards is None else shards:
        writer.write_shard(shard, plan.rows.take(plan.layout.shard_rows(shard)))
    return building


def make(root: Path, plan: Plan) -> Path:
    """A published cache."""
    return publish(write(root, plan), root, plan.manifest)
