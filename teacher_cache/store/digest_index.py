"""Finds passages by digest: one binary search in the sorted table, and no object per passage."""

from __future__ import annotations

import numpy as np

from teacher_cache.passages import DIGEST_BYTES


class DigestIndex:
    """Digest -> number of the passage. digests : uint8 (M, 16), ascending."""

    def __init__(self, digests: np.ndarray) -> None:
        self._digests = np.ascontiguousarray(digests)
        self._keys = _keys(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def position(self, digest: bytes) -> int:
        """The passage's number, counted from 0; -1 where there is none."""
        position = int(self._keys.searchsorted(np.frombuffer(digest, self._keys.dtype))[0])
        return position if position < len(self) and self._digests[position].tobytes() == digest else -1

    def positions(self, digests: np.ndarray) -> np.ndarray:
        """int64 (n,), the numbers of uint8 (n, 16) digests; -1 where there is none."""
        keys = _keys(np.ascontiguousarray(digests))
        found: np.ndarray = self._keys.searchsorted(keys)
        is_there = self._keys.take(found, mode="clip") == keys
        return found if is_there.all() else np.where(is_there, found, -1)


def _keys(digests: np.ndarray) -> np.ndarray:
    # numpy orders strings of equal length as unsigned bytes, which is the order of the file. It takes
    # zero bytes at a string's end for padding, and pads before it compares: no two digests fall together.
    return digests.view(f"S{DIGEST_BYTES}").reshape(-1)
