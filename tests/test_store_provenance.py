"""A run that is given another cache says in which of its parts that cache is another."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from synthetic_cache import SyntheticTeacher, passages_named, plan_of

from student.errors import StudentError
from student.training.run_cache import CACHE_NAME, note_cache, require_same_cache
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store.manifest import Manifest, Recipe
from teacher_cache.store.provenance import CacheOrigin, origin_differences, origin_of

CONFIG = CacheConfig(top_k=8)


def manifest(
    config: CacheConfig = CONFIG, passages: int = 5, seed: int = 0, recipe: dict[str, object] | None = None
) -> Manifest:
    made = plan_of(passages_named(passages), SyntheticTeacher(seed=seed), config).manifest
    return replace(made, recipe=replace(made.recipe, **(recipe or {})))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (manifest(seed=7), "teacher 'synthetic', now 'synthetic' (other model.safetensors)"),
        (manifest(passages=6), r"text 5 passages"),
        (manifest(recipe={"normaliser": {"name": "english", "version": 2}}), "normaliser "),
        (manifest(replace(CONFIG, masking="whole_word")), "masking token, now whole_word"),
        (manifest(replace(CONFIG, context="chapter", context_words=9)), "context utterance, now chapter"),
        (manifest(replace(CONFIG, top_k=4)), "K 8, now 4"),
        (manifest(replace(CONFIG, temperatures=(1.0,))), "temperatures [1.0,2.0], now [1.0]"),
        (manifest(replace(CONFIG, dtype="bfloat16")), "dtype float32, now bfloat16"),
    ],
)
def test_the_part_that_differs_is_named_and_no_other(other: Manifest, said: str) -> None:
    began = origin_of(manifest())
    phrases = origin_differences(began, origin_of(other))
    assert phrases[0].startswith(said), phrases
    assert len(phrases) == (2 if other.recipe.context == "chapter" else 1)  # context_words goes with context
    assert origin_differences(began, began) == []


@pytest.mark.parametrize("name", [part.name for part in fields(Recipe)])
def test_no_part_of_the_recipe_is_overlooked(name: str) -> None:
    one = origin_of(manifest())
    value = {"a": "b"} if name == "teacher_files_sha256" else "another"
    assert len(origin_differences(one, replace(one, recipe={**one.recipe, name: value}))) == 1


def test_an_origin_comes_back_from_json_as_equal_words() -> None:
    origin = origin_of(manifest())
    again = CacheOrigin.from_json(json.loads(json.dumps(origin.to_json())), "cache.json")
    assert origin_differences(origin, again) == []
    with pytest.raises(CacheError, match="cache.json: .*; names no cache"):
        CacheOrigin.from_json({"fingerprint": "a"}, "cache.json")


def test_a_run_is_held_to_the_cache_it_began_with(tmp_path: Path) -> None:
    began, other = manifest(), manifest(replace(CONFIG, masking="whole_word"), passages=6)
    note_cache(tmp_path, began)
    require_same_cache(tmp_path, began.fingerprint, began.fingerprint, began)
    with pytest.raises(
        StudentError, match=r"text 5 passages .*, now 6 .*; masking token, now whole_word"
    ) as reported:
        require_same_cache(tmp_path, began.fingerprint, other.fingerprint, other)
    assert "\n" not in str(reported.value)
    assert began.fingerprint in str(reported.value) and other.fingerprint in str(reported.value)
    assert json.loads((tmp_path / CACHE_NAME).read_text())["fingerprint"] == began.fingerprint
    older = tmp_path / "a run without a note"
    require_same_cache(older, other.fingerprint, other.fingerprint, other)
    with pytest.raises(StudentError, match=f"began with cache {began.fingerprint}, not none; name that one"):
        require_same_cache(older, began.fingerprint, "")
    assert not older.exists()  # the checkpoint's fingerprint decides there
