"""K is chosen when training: the first k' columns of a real build are a build of k'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from build_helpers import build_request, quiet, texts

from teacher_cache.build.run import build_cache
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage
from teacher_cache.store import TeacherCacheReader
from teacher_cache.store.layout import LOGPROB_STEPS_PER_NAT

TEXTS = texts(80)
STORED_ERROR = 0.5 / LOGPROB_STEPS_PER_NAT


@pytest.fixture(scope="module")
def built(bert_folder: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """K -> a real build of the same transcripts."""
    root = tmp_path_factory.mktemp("root")

    def build(top_k: int) -> Path:
        config = CacheConfig(top_k=top_k)
        request = build_request(bert_folder, root, TEXTS, config, name=f"k{top_k}", scheduler=scheduler)
        return build_cache(request, quiet).path

    return {top_k: build(top_k) for top_k in (8, 40)}


@pytest.mark.parametrize(("temperature", "tail"), [(1.0, "bucket"), (2.0, "bucket"), (3.7, "renormalise")])
def test_a_view_of_eight_equals_a_build_of_eight(
    built: dict[int, Path], temperature: float, tail: str
) -> None:
    view = TeacherCacheReader(built[40], top_k=8, temperature=temperature, tail=tail)
    small = TeacherCacheReader(built[8], temperature=temperature, tail=tail)
    assert view.fingerprint != small.fingerprint
    for text in TEXTS:
        digest = Passage("", text, "").digest
        one, other = view.targets(digest), small.targets(digest)
        np.testing.assert_array_equal(one.gold_ids, other.gold_ids)
        np.testing.assert_array_equal(one.top_ids, other.top_ids)
        np.testing.assert_array_equal(one.top_logprobs, other.top_logprobs)
        # The small build stores the tail itself; the view adds 32 rounded columns to a smaller one.
        np.testing.assert_allclose(one.tail_logprob, other.tail_logprob, rtol=0, atol=STORED_ERROR + 1e-5)


def test_a_temperature_that_no_build_stored_is_refused_with_those_it_did(built: dict[int, Path]) -> None:
    with pytest.raises(CacheError, match=r"temperature 3\.7 is not stored .* \(1, 2 are\).*renormalise"):
        TeacherCacheReader(built[40], top_k=8, temperature=3.7)
