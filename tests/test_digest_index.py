from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.store.digest_index import DigestIndex

DIGEST = st.binary(min_size=16, max_size=16)


def table(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


@given(st.sets(DIGEST, min_size=1, max_size=30), DIGEST)
def test_every_digest_is_found_at_its_place_and_no_other(digests: set[bytes], other: bytes) -> None:
    # zero bytes at the end matter: numpy strips them from fixed-length strings
    ordered = sorted(digests | {digest[:15] + b"\x00" for digest in digests} | {bytes(16)})
    index = DigestIndex(table(ordered))
    assert [index.position(digest) for digest in ordered] == list(range(len(ordered)))
    assert index.positions(table(ordered)).tolist() == list(range(len(ordered)))
    expected = ordered.index(other) if other in ordered else -1
    assert index.position(other) == expected
    assert index.positions(table([other, ordered[0]])).tolist() == [expected, 0]
