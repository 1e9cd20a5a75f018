from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from synthetic_cache import NORMALISER, passages_named, plan_of

from teacher_cache.common.files import canonical_json
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store.layout import MISSING_STEPS, SATURATED, Layout, array_specs, dequantise, quantise
from teacher_cache.store.manifest import Manifest, Recipe, contents_sha256, fingerprint
from teacher_cache.teacher.identity import identify_teacher

LOGPROBS = st.floats(-65_534 / 2048, 0, width=32, allow_subnormal=False)


@given(arrays(np.float32, (3, 5), elements=LOGPROBS))
def test_a_stored_log_probability_is_off_by_at_most_a_quarter_of_a_thousandth(logprobs: np.ndarray) -> None:
    assert np.abs(dequantise(quantise(logprobs)) - logprobs).max() <= 2.5e-4


@given(arrays(np.float32, (7,), elements=st.floats(-(2.0**99), -32, width=32) | st.just(-np.inf)))
def test_small_probabilities_saturate_and_never_look_unwritten(logprobs: np.ndarray) -> None:
    assert (quantise(logprobs) == SATURATED).all()


def test_every_stored_step_survives_being_read_and_stored_again() -> None:
    steps = np.arange(MISSING_STEPS, dtype=np.uint16)
    assert np.array_equal(quantise(dequantise(steps)), steps)


@given(arrays(np.float32, (6,), elements=LOGPROBS))
def test_storing_keeps_the_order(logprobs: np.ndarray) -> None:
    steps = quantise(np.sort(logprobs)[::-1])
    assert (np.diff(steps.astype(int)) >= 0).all()


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_534, "<u2"), (65_535, "<u4")])
def test_an_id_never_equals_the_fill_value(vocab_size: int, dtype: str) -> None:
    layout = Layout(
        num_rows=1, num_passages=1, top_k=1, temperatures=(1.0,), vocab_size=vocab_size, rows_per_shard=1024
    )
    specs = array_specs(layout)
    assert specs["row/top_id"].dtype == specs["row/gold_id"].dtype == dtype
    assert specs["row/top_id"].fill > vocab_size - 1


@pytest.mark.parametrize("top_k", [1, 5, 16, 20, 64])
def test_one_shard_is_one_file_that_spans_every_column(top_k: int) -> None:
    layout = Layout(
        num_rows=5000,
        num_passages=9,
        top_k=top_k,
        temperatures=(1.0,),
        vocab_size=99,
        rows_per_shard=2048,
    )
    for name, spec in array_specs(layout).items():
        if name.startswith("row/"):
            assert spec.shards is not None and spec.shards[0] == 2048
            assert all(shard >= size for shard, size in zip(spec.shards[1:], spec.shape[1:], strict=True))
            assert all(shard % chunk == 0 for shard, chunk in zip(spec.shards, spec.chunks, strict=True))


@given(st.integers(1, 9000), st.integers(1, 4))
def test_shards_cover_every_row_once(num_rows: int, thousands: int) -> None:
    layout = Layout(
        num_rows=num_rows,
        num_passages=1,
        top_k=1,
        temperatures=(1.0,),
        vocab_size=9,
        rows_per_shard=1024 * thousands,
    )
    rows = [row for shard in range(layout.num_shards) for row in range(num_rows)[layout.shard_rows(shard)]]
    assert rows == list(range(num_rows))
    with pytest.raises(CacheError, match="is not one of"):
        layout.shard_rows(layout.num_shards)


def recipe() -> Recipe:
    return plan_of(passages_named(3)).manifest.recipe


def changed(value: object) -> object:
    match value:
        case str():
            return value + "x"
        case int() | float():
            return value + 1
        case dict():
            return {**value, "new": "1"}
        case tuple():
            return (*value, 9.0)
    raise AssertionError(value)


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
def test_every_part_of_the_recipe_is_in_the_fingerprint(name: str) -> None:
    one = recipe()
    other = replace(one, **{name: changed(getattr(one, name))})
    digests = plan_of(passages_named(3)).digests
    assert one.digest() != other.digest()
    assert fingerprint(one, digests) != fingerprint(other, digests)


def test_the_fingerprint_knows_its_contents_and_not_the_order_of_keys() -> None:
    one = recipe()
    turned = replace(one, normaliser=dict(reversed(one.normaliser.items())))
    digests = plan_of(passages_named(3)).digests
    assert fingerprint(one, digests) == fingerprint(turned, digests)
    assert fingerprint(one, digests) != fingerprint(one, digests[:-1])
    assert len(fingerprint(one, digests)) == 32


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=8, unique=True))
def test_digests_must_ascend_as_python_orders_bytes(keys: list[bytes]) -> None:
    def table(ordered: list[bytes]) -> np.ndarray:
        return np.frombuffer(b"".join(ordered), np.uint8).reshape(-1, 16)

    contents_sha256(table(sorted(keys)))
    if keys != sorted(keys):
        with pytest.raises(CacheError, match="do not ascend"):
            contents_sha256(table(keys))
    with pytest.raises(CacheError, match="do not ascend"):
        contents_sha256(table([*sorted(keys), max(keys)]))


def test_a_manifest_comes_back_from_json_as_it_was() -> None:
    manifest = replace(plan_of(passages_named(3)).manifest, quality={"top_1": 0.25}, build={"rows": 3})
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_manifest_of_another_format_or_by_another_hand_is_refused() -> None:
    entry = plan_of(passages_named(3)).manifest.to_json()
    with pytest.raises(CacheError, match="format 2, this code reads 1; rebuild"):
        Manifest.from_json({**entry, "format_version": 2})
    with pytest.raises(CacheError, match="changed since"):
        Manifest.from_json({**entry, "quality": {"top_1": 1.0}})
    with pytest.raises(CacheError, match="changed since"):
        Manifest.from_json({"format_version": 1})


def test_a_manifest_names_what_differs_from_a_config() -> None:
    manifest = plan_of(passages_named(3)).manifest
    config = CacheConfig(top_k=24)
    assert manifest.differences(config, "synthetic", NORMALISER) == []
    assert manifest.differences(config, "", NORMALISER) == []
    other = manifest.differences(
        replace(config, masking="whole_word", top_k=8), "bert-base", {**NORMALISER, "version": 2}
    )
    assert [line.split()[0] for line in other] == ["teacher", "masking", "normaliser", "top_k"]


def test_canonical_json_refuses_what_json_cannot_say() -> None:
    assert canonical_json({"b": (1, 2), "a": "é"}) == '{"a":"\\u00e9","b":[1,2]}'
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_a_teacher_is_known_by_its_files_wherever_they_lie(bert_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bert_folder, tmp_path / "elsewhere")
    (copy / "README.md").write_text("about")
    (copy / "bert2ctc_teacher.json").write_text(
        '{"name": "tiny", "licence": "CC0-1.0", "normaliser": {"version": 1}}'
    )
    one, other = identify_teacher(bert_folder), identify_teacher(copy)
    assert one.files_sha256 == other.files_sha256
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= one.files_sha256.keys()
    assert (other.name, other.licence, other.normaliser) == ("tiny", "CC0-1.0", {"version": 1})
    assert one.max_tokens == 64
    with (copy / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x01")
    assert identify_teacher(copy).files_sha256 != one.files_sha256
    assert json.loads(canonical_json(asdict(one)))


def test_a_folder_without_safetensors_or_config_is_no_teacher(bert_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bert_folder, tmp_path / "pickled")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CacheError, match=r"no \*\.safetensors"):
        identify_teacher(copy)
    with pytest.raises(CacheError, match="no such file; train a teacher"):
        identify_teacher(tmp_path / "nowhere")
