"""A published cache of random rows, for benchmarks that are given no real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from teacher_cache.config import CacheConfig
from teacher_cache.passages import Passage
from teacher_cache.store.layout import Layout
from teacher_cache.store.manifest import Manifest, TeacherIdentity, contents_sha256, fingerprint, recipe_of
from teacher_cache.store.root import building_path
from teacher_cache.store.rows import RowBlock
from teacher_cache.store.writer import CacheWriter, publish

VOCABULARY = 30_000
ROWS_PER_SHARD = 8192


def synthetic_cache(root: Path, num_passages: int, top_k: int = 64) -> Path:
    """Passages of 5 to 60 pieces with Zipf-distributed candidates."""
    random = np.random.default_rng(0)
    passages = sorted(
        (Passage("", f"utterance {number}", "") for number in range(num_passages)), key=lambda p: p.digest
    )
    digests = np.frombuffer(b"".join(passage.digest for passage in passages), np.uint8).reshape(-1, 16)
    lengths = random.integers(5, 61, num_passages)
    layout = Layout(
        num_rows=int(lengths.sum()),
        num_passages=num_passages,
        top_k=top_k,
        temperatures=(1.0,),
        vocab_size=VOCABULARY,
        rows_per_shard=ROWS_PER_SHARD,
    )
    identity = TeacherIdentity(
        name="random",
        model="",
        revision="",
        licence="CC0-1.0",
        files_sha256={},
        vocab_size=VOCABULARY,
        max_tokens=512,
    )
    recipe = recipe_of(
        identity, CacheConfig(top_k=top_k, temperatures=(1.0,)), {"name": "none", "version": 1}
    )
    manifest = Manifest(
        fingerprint=fingerprint(recipe, digests),
        recipe=recipe,
        teacher=identity,
        layout=layout,
        contents_sha256=contents_sha256(digests),
    )
    writer = CacheWriter.create(building_path(root, manifest.fingerprint), layout)
    writer.write_passages(np.cumsum(lengths) - lengths, lengths, digests)
    writer.write_vocabulary([f"piece{number}" for number in range(VOCABULARY)], np.zeros(VOCABULARY, bool))
    for shard in range(layout.num_shards):
        rows = layout.shard_rows(shard)
        writer.write_shard(shard, _random_rows(rows.stop - rows.start, layout, random))
    return publish(writer.building, root, manifest)


def _random_rows(count: int, layout: Layout, random: np.random.Generator) -> RowBlock:
    weights = -np.sort(-random.dirichlet(np.full(layout.top_k + 1, 0.2), size=count), axis=1)
    logprobs = np.log(np.maximum(weights, 1e-12))
    first = random.zipf(1.3, count) % (VOCABULARY - layout.top_k)  # neighbouring ids: distinct in a row
    apart = random.permutation(layout.top_k)
    return RowBlock(
        gold_id=first,
        gold_logprob=logprobs[:, int(np.flatnonzero(apart == 0)[0])].astype(np.float32),
        top_id=first[:, None] + apart,
        top_logprob=logprobs[:, : layout.top_k].astype(np.float32),
        lognorm=np.zeros((count, 1), np.float32),
        tail_logprob=logprobs[:, layout.top_k :].astype(np.float32),
    )
