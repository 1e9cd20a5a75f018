"""Stored values that must not move unless `label_version` is raised.

After raising it, write the new values with
`BERT2CTC_WRITE_GOLDEN=1 pytest tests/test_build_golden_labels.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_helpers import build_request, entries_of, quiet
from golden_teacher import PIECES, TEXTS, golden_bert
from independent_reader import read_cache

from teacher_cache.build.run import build_cache
from teacher_cache.config import CacheConfig
from teacher_cache.passages import passages_of
from teacher_cache.store.manifest import LABEL_VERSION

GOLDEN = Path(__file__).with_name("golden_labels.json")
STATED_ERROR = 1e-3  # of a stored log-probability, whatever the processor
DECIMALS = 4
POLICIES = {
    "token": CacheConfig(top_k=6, temperatures=(1.0, 2.0)),
    "whole_word": CacheConfig(top_k=6, temperatures=(1.0, 2.0), masking="whole_word"),
    "chapter": CacheConfig(top_k=6, temperatures=(1.0, 2.0), context="chapter", context_words=8),
}
VALUES = ("gold_logprob", "top_logprob", "lognorm", "tail_logprob")


def stored_values(path: Path, config: CacheConfig) -> dict[str, Any]:
    """Every label of the 20 transcripts, as a reader of the format finds it; keyed by passage digest."""
    _, pieces, special, labels = read_cache(path)
    assert pieces == list(PIECES) and special.sum() == 6
    digests = [passage.digest for passage in passages_of(entries_of(TEXTS), config)]
    return {
        digest.hex(): {
            name: (np.round(values.astype(np.float64), DECIMALS) if name in VALUES else values).tolist()
            for name, values in labels[digest].items()
        }
        for digest in digests
    }


@pytest.fixture(scope="module")
def found(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Policy -> the stored values of a build by this code."""
    teacher = golden_bert(tmp_path_factory.mktemp("golden"))
    return {
        policy: stored_values(
            build_cache(
                build_request(teacher, tmp_path_factory.mktemp(policy), TEXTS, config, scheduler=scheduler),
                quiet,
            ).path,
            config,
        )
        for policy, config in POLICIES.items()
    }


@pytest.fixture(scope="module")
def golden(found: dict[str, Any]) -> dict[str, Any]:
    """What is committed; with BERT2CTC_WRITE_GOLDEN, what is to be committed under a raised version."""
    if os.environ.get("BERT2CTC_WRITE_GOLDEN"):
        version = json.loads(GOLDEN.read_text("utf-8"))["label_version"] if GOLDEN.is_file() else 0
        assert version < LABEL_VERSION, f"raise LABEL_VERSION above {version} before you write new values"
        entry = {"label_version": LABEL_VERSION, "labels": found}
        GOLDEN.write_text(_one_passage_a_line(entry), encoding="utf-8")
    return dict(json.loads(GOLDEN.read_text("utf-8")))


def test_the_golden_values_are_those_of_this_label_version(golden: dict[str, Any]) -> None:
    assert golden["label_version"] == LABEL_VERSION, "write the values of the raised version: see this file"


@pytest.mark.parametrize("policy", POLICIES)
def test_no_stored_value_changes_without_a_new_label_version(
    golden: dict[str, Any], found: dict[str, Any], policy: str
) -> None:
    assert found[policy].keys() == golden["labels"][policy].keys(), "passages have other digests"
    for digest, expected in golden["labels"][policy].items():
        labels = found[policy][digest]
        assert labels["gold_id"] == expected["gold_id"], digest
        for name in VALUES:
            np.testing.assert_allclose(
                labels[name], expected[name], rtol=0, atol=STATED_ERROR, err_msg=f"{name} of {digest}"
            )
        logprobs = np.array(expected["top_logprob"])
        # Candidates that lie closer than the stated error may change places on another processor.
        apart = np.diff(-logprobs, axis=1) > 2 * STATED_ERROR
        is_clear = np.pad(apart, ((0, 0), (1, 0)), constant_values=True)[:, :-1] & apart
        ids, wanted = np.array(labels["top_id"])[:, :-1], np.array(expected["top_id"])[:, :-1]
        np.testing.assert_array_equal(ids[is_clear], wanted[is_clear], err_msg=f"top_id of {digest}")


def test_the_golden_values_say_enough_to_notice_a_change(golden: dict[str, Any]) -> None:
    for labels in golden["labels"].values():
        assert len(labels) == len(TEXTS) == 20
        logprobs = np.concatenate([entry["top_logprob"] for entry in labels.values()])
        assert (np.diff(-logprobs, axis=1) > 2 * STATED_ERROR).mean() > 0.9  # nearly every rank is pinned
        assert logprobs[:, 0].std() > 0.1  # a teacher with opinions, not a flat one
    values = list(golden["labels"].values())
    one, other, third = (np.concatenate([entry["gold_logprob"] for entry in v.values()]) for v in values)
    assert np.abs(one - other).max() > 0.01  # the masking policies differ where a word has several pieces
    assert np.abs(one - third).max() > 0.01


def _one_passage_a_line(entry: dict[str, Any]) -> str:
    policies = ",\n".join(
        f' "{policy}": {{\n'
        + ",\n".join(f'  "{digest}": {json.dumps(labels)}' for digest, labels in passages.items())
        + "\n }"
        for policy, passages in entry["labels"].items()
    )
    return f'{{"label_version": {entry["label_version"]}, "labels": {{\n{policies}\n}}}}\n'
