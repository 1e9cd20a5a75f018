"""What a build will do, written before it does it: `plan.json`, which a resumed build adopts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from teacher_cache.common.differences import differences, phrases
from teacher_cache.common.files import FILES, write_whole
from teacher_cache.common.small_files import is_there
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import DIGEST_BYTES, Passage, TranscriptEntry, passages_of
from teacher_cache.store.layout import CHUNK_ROWS, MAX_ROWS_PER_SHARD

PLAN = "plan.json"
SHARDS_PER_WORKER = 8  # so that the last shards of a build leave no worker idle for long


@dataclass(frozen=True, slots=True)
class Corpus:
    """The distinct passages of some splits, in the order of their digests.

    digests : uint8 (M, 16), ascending     utterances : id of the first utterance with that passage
    """

    passages: list[Passage]
    digests: np.ndarray
    utterances: list[str]

    @staticmethod
    def of(splits: Mapping[str, Sequence[TranscriptEntry]], config: CacheConfig) -> Corpus:
        """The passages of every split; neighbours are sought within a split only.

        Raises CacheError where there is no entry.
        """
        found: dict[bytes, tuple[Passage, str]] = {}
        for entries in splits.values():
            for entry, passage in zip(entries, passages_of(entries, config), strict=True):
                found.setdefault(passage.digest, (passage, entry.id))
        if not found:
            raise CacheError(
                f"no transcripts in {', '.join(splits) or 'no split'}; run `bert2ctc data prepare` first"
            )
        order = sorted(found)
        return Corpus(
            passages=[found[digest][0] for digest in order],
            digests=np.frombuffer(b"".join(order), np.uint8).reshape(-1, DIGEST_BYTES),
            utterances=[found[digest][1] for digest in order],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """All that the bytes of the arrays follow from, beside recipe, passages, device type and versions.

    Rows stand in the order of their passages' digests; shard s holds the rows from s * rows_per_shard on;
    its batches follow from the lengths of its copies and from batch_tokens.
    threads : of each worker     reused : fingerprints of the caches whose rows are copied
    """

    fingerprint: str
    num_rows: int
    num_passages: int
    rows_per_shard: int
    batch_tokens: int
    threads: int
    dtype: str
    device_type: str
    reused: tuple[str, ...] = ()

    def write(self, building: Path) -> None:
        """Write `plan.json` whole or not at all."""
        write_whole(building / PLAN, json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(building: Path) -> BuildPlan | None:
        """The plan of an interrupted build; None where none was begun; CacheError for a damaged one."""
        path = building / PLAN
        if not is_there(path):
            return None
        advice = f"a damaged plan; remove {building} and rerun `bert2ctc cache build`"
        return FILES.record(BuildPlan, path, advice)

    def differences(self, other: BuildPlan) -> list[str]:
        """Fields in which another plan differs, as "name mine -> theirs"."""
        return phrases(differences(asdict(self), asdict(other)), "{key} {old} -> {new}")


def choose_rows_per_shard(num_rows: int, num_workers: int) -> int:
    """A multiple of 1,024 up to 65,536 at which every worker gets about eight shards, where rows suffice."""
    fair_share = num_rows // (num_workers * SHARDS_PER_WORKER)
    return min(max(fair_share // CHUNK_ROWS, 1) * CHUNK_ROWS, MAX_ROWS_PER_SHARD)
