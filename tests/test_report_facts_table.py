"""A JSON object is shown whole, as tables: every name and value of it, and no Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from synthetic_cache import make, passages_named, plan_of

from pipeline.cli import main
from pipeline.report.facts_table import facts_tables, shown

LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text("abc _[]", max_size=6)
NAME = st.text("abcd 12", min_size=1, max_size=5)
FACTS = st.dictionaries(
    NAME,
    st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3)),
    max_size=4,
)


def rendered(facts: dict[str, Any]) -> str:
    console = Console(width=10_000, no_color=True)
    with console.capture() as kept:
        for one in facts_tables(facts):
            console.print(one)
    return kept.get()


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict) and value:
        return [leaf for entry in value.values() for leaf in leaves(entry)]
    return [value]


@given(FACTS)
def test_whatever_a_foreign_file_holds_is_shown(facts: dict[str, Any]) -> None:
    text = rendered(facts)
    for leaf in leaves(facts):
        if isinstance(leaf, str | int | float | bool | None):
            assert shown(leaf).strip() in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456789, "0.123457"),
        (12345678.9, "12,345,679"),
        (float("nan"), "nan"),
        ([1.0, 2.0], "1, 2"),
        (None, "-"),
        ("", "-"),
        ({}, "-"),
        ([], "-"),
    ],
)
def test_a_value_is_written_as_a_person_writes_it(value: Any, text: str) -> None:
    assert shown(value) == text


def test_a_cache_is_described_in_tables_and_in_json(tmp_path: Path) -> None:
    path = make(tmp_path, plan_of(passages_named(3)))
    arguments = ["cache", "info", path.name, "--cache-root", str(tmp_path)]
    text = CliRunner().invoke(main, arguments).stdout
    facts = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert facts["fingerprint"] == path.name in text and "synthetic" in text and "english" in text
    assert not set(text) & set("{}[]") and "None" not in text


def test_quality_is_one_column_per_k_and_one_row_per_hard_utterance() -> None:
    worst = [{"utterance": "u1", "text": "a b", "pseudo_perplexity": 7.5}]
    text = rendered({"rows": 10, "quality": {"mass_at": {"1": 0.5, "64": 0.9}, "worst": worst}})
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines == [
        ["rows", "10"],
        ["quality:", "mass", "at"],
        ["1", "64"],
        ["0.5", "0.9"],
        ["quality:", "worst"],
        ["utterance", "text", "pseudo", "perplexity"],
        ["u1", "a", "b", "7.5"],
    ]
