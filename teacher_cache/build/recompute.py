"""Scores a random sample of a cache's passages again and compares: are these the teacher's labels at all?

Checksums say that nothing changed since the rows were written; only the teacher can say that they were right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teacher_cache.build.reuse import copy_rows
from teacher_cache.common.differences import differences, listed
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import DIGEST_BYTES, Passage
from teacher_cache.store.checked_cache import CheckedCache
from teacher_cache.store.digest_index import DigestIndex
from teacher_cache.store.laws import fault_of
from teacher_cache.store.layout import LOGPROB_STEPS_PER_NAT, SATURATED
from teacher_cache.store.manifest import Manifest, Recipe, read_manifest
from teacher_cache.store.piece_policy import settings_of_policy
from teacher_cache.store.rows import RowBlock
from teacher_cache.teacher.identity import identify_teacher
from teacher_cache.teacher.masked_teacher import MaskedTeacher

STATED_ERROR = 1e-3  # of a stored log-probability in float32
# Another machine, or a compiler, rounds a bfloat16 teacher otherwise: by about as much as bfloat16 itself
# rounds, so many times that is still the same teacher.
CONTROL_FACTOR = 3
SMALLEST_LOGPROB = -SATURATED / LOGPROB_STEPS_PER_NAT
NAMED_PASSAGES = NAMED_FILES = 3
BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RecomputeReport:
    """What a second scoring found. faults : one line per passage that differs, at most NAMED_PASSAGES + 1

    largest_error : of a log-probability, in nats     control : the same between two scorings of our own,
    in the cache's dtype and in float32; 0 in float32     allowed : what an error may be
    """

    passages: int
    rows: int
    largest_error: float
    control: float
    allowed: float
    faults: tuple[str, ...]


def recompute_cache(
    path: Path,
    teacher_folder: Path,
    passages: Sequence[Passage],
    fraction: float,
    seed: int = 0,
    device: str = "cpu",
) -> RecomputeReport:
    """Score a random `fraction` of those of `passages` that the cache holds, at least one, and compare.

    passages : the texts, which a cache does not keep     teacher_folder : refused where any of its files is
    not the one that labelled. Allowed is the stated error, and in bfloat16 three times the control where
    that is more. Raises CacheError where nothing can be compared.
    """
    if not 0 < fraction <= 1:
        raise CacheError(f"fraction {fraction:g} is not above 0 and at most 1; try --recompute 0.001")
    manifest = read_manifest(path)
    _refuse_another_teacher(manifest, teacher_folder)
    sample = _sample(path, manifest, passages, fraction, seed)
    config = _config_of(manifest.recipe)
    teacher = MaskedTeacher.load(teacher_folder, config.dtype, device)
    encoded = teacher.tokenizer.encode(sample, config.passage_end)
    lengths = encoded.own_length
    wanted = np.ones(int(lengths.sum()), dtype=bool)
    digests = np.frombuffer(b"".join(p.digest for p in sample), np.uint8).reshape(-1, DIGEST_BYTES)
    stored = copy_rows(path, digests)
    if len(stored) != len(wanted):
        raise CacheError(
            f"{path}: {len(stored)} rows where the teacher's tokenizer makes {len(wanted)} of the same "
            f"{len(sample)} passages; rebuild with `bert2ctc cache build`"
        )
    scored = teacher.score(encoded, wanted, config, BATCH_TOKENS)
    control = 0.0
    if config.dtype != "float32":
        exact = MaskedTeacher.load(teacher_folder, "float32", device)
        control = float(row_errors(scored, exact.score(encoded, wanted, config, BATCH_TOKENS)).max())
    allowed = max(STATED_ERROR, CONTROL_FACTOR * control)
    errors = row_errors(stored, scored)
    errors[stored.gold_id != scored.gold_id] = np.inf
    passage_of_row = np.repeat(np.arange(len(sample)), lengths)
    return RecomputeReport(
        passages=len(sample),
        rows=len(stored),
        largest_error=float(errors.max()),
        control=control,
        allowed=allowed,
        faults=_faults(
            sample,
            passage_of_row,
            errors,
            allowed,
            fault_of(scored, manifest.layout, teacher.tokenizer.is_unranked(config.ranked_pieces)),
        ),
    )


def _config_of(recipe: Recipe) -> CacheConfig:
    """The [cache] table that the recipe was made from."""
    ranked_pieces, passage_end = settings_of_policy(recipe.special_tokens)
    return CacheConfig(
        ranked_pieces=ranked_pieces,
        passage_end=passage_end,
        masking=recipe.masking,
        context=recipe.context,
        context_words=recipe.context_words,
        top_k=recipe.top_k,
        temperatures=recipe.temperatures,
        dtype=recipe.dtype,
    )


def row_errors(one: RowBlock, other: RowBlock) -> np.ndarray:
    """The largest difference in each row, float64 (n,), in nats.

    Compared are the log-probabilities rank by rank, and of the pieces that both rank: so a tie that
    falls the other way is no error. What is saturated counts as the smallest log-probability there is.
    """
    pairs = [
        (one.gold_logprob[:, None], other.gold_logprob[:, None]),
        (one.top_logprob, other.top_logprob),
        (one.top_logprob, _at_pieces(other, one)),
        (one.lognorm, other.lognorm),
        (one.tail_logprob, other.tail_logprob),
    ]
    errors = [
        np.abs(_clipped(left) - np.where(np.isnan(right), _clipped(left), _clipped(right))).max(axis=1)
        for left, right in pairs
    ]
    largest: np.ndarray = np.max(errors, axis=0)
    return largest


def _at_pieces(rows: RowBlock, wanted: RowBlock) -> np.ndarray:
    """The log-probability that `rows` give to the pieces that `wanted` ranks, (n, K).

    Where a piece is not ranked, that of the last which is: an upper bound, and equal to it in a tie.
    """
    order = np.argsort(rows.top_id, axis=1)
    ids = np.take_along_axis(rows.top_id, order, axis=1).astype(np.int64)
    logprobs = np.take_along_axis(rows.top_logprob, order, axis=1)
    count, size = ids.shape
    apart = np.arange(count)[:, None] * (max(int(ids.max()), int(wanted.top_id.max())) + 1)
    column = np.searchsorted((ids + apart).ravel(), (wanted.top_id.astype(np.int64) + apart).ravel())
    column = np.minimum(column.reshape(count, -1) - np.arange(count)[:, None] * size, size - 1)
    is_held = np.take_along_axis(ids, column, axis=1) == wanted.top_id
    found: np.ndarray = np.where(
        is_held, np.take_along_axis(logprobs, column, axis=1), rows.top_logprob[:, -1:]
    )
    return found


def _clipped(logprobs: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.maximum(logprobs.astype(np.float64), SMALLEST_LOGPROB)
    return clipped


def _refuse_another_teacher(manifest: Manifest, folder: Path) -> None:
    found, labelled = identify_teacher(folder).files_sha256, manifest.recipe.teacher_files_sha256
    names = list(differences(labelled, found))
    if names:
        raise CacheError(
            f"{folder}: not the teacher that labelled cache {manifest.fingerprint} (other "
            f"{listed(names, NAMED_FILES, ', ')}); name {manifest.teacher.name!r} itself under [teacher]"
        )


def _sample(
    path: Path, manifest: Manifest, passages: Sequence[Passage], fraction: float, seed: int
) -> list[Passage]:
    """Distinct passages that the cache holds, drawn without replacement, in the order of their digests."""
    index = DigestIndex(CheckedCache(path, manifest).digests)
    held = sorted({p.digest: p for p in passages if index.position(p.digest) >= 0}.items())
    if not held:
        raise CacheError(
            f"cache {manifest.fingerprint} holds none of the {len(passages):,} passages given; name the "
            "config that it was built with"
        )
    count = max(1, round(fraction * len(held)))
    chosen = np.random.default_rng(seed).choice(len(held), size=count, replace=False)
    return [held[number][1] for number in sorted(chosen.tolist())]


def _faults(
    sample: Sequence[Passage], passage_of_row: np.ndarray, errors: np.ndarray, allowed: float, law: str
) -> tuple[str, ...]:
    lines = [f"scored again, {law}"] if law else []
    wrong = np.unique(passage_of_row[~(errors <= allowed)])
    for number in wrong[:NAMED_PASSAGES]:
        worst = errors[passage_of_row == number].max()
        said = "another gold piece" if np.isinf(worst) else f"off by {worst:.4f} nats, {allowed:.4f} allowed"
        lines.append(f"passage {sample[number].text[:40]!r}: {said}")
    if len(wrong) > NAMED_PASSAGES:
        lines.append(f"and {len(wrong) - NAMED_PASSAGES:,} more of {len(sample):,} passages")
    return tuple(lines)
