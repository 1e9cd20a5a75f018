"""Every setting is declared once, with its range and reason, and its page follows."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.settings_page import SHOWN, page
from teacher_cache.settings import Setting, check_settings, setting, setting_of

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
FIELDS = [(name, field) for name, kind in SHOWN.items() for field in dataclasses.fields(kind)]
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_the_page_is_what_the_dataclasses_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "run `python -m pipeline.report.settings_page > docs/configuration.md`"
    )


@pytest.mark.parametrize(("table", "field"), FIELDS, ids=[f"{name}.{field.name}" for name, field in FIELDS])
def test_every_default_is_in_its_range_and_nothing_that_is_no_number(
    table: str, field: dataclasses.Field[Any]
) -> None:
    declared = setting_of(field)
    assert declared is not None and declared.reason and not declared.reason.endswith(".")
    if field.default is not dataclasses.MISSING:
        assert declared.fault(field.default) == ""
    for nonsense in (math.nan, math.inf, -math.inf):
        assert declared.fault(nonsense).startswith("must be finite")
        assert declared.fault((nonsense,)) == declared.fault(nonsense)


@given(NUMBERS, NUMBERS, NUMBERS, st.booleans())
def test_a_value_is_allowed_exactly_within_the_bounds(a: float, b: float, value: float, open_: bool) -> None:
    low, high = min(a, b), max(a, b)
    declared = Setting(reason="", above=low, below=high) if open_ else Setting(reason="", low=low, high=high)
    is_inside = low < value < high if open_ else low <= value <= high
    assert (declared.fault(value) == "") == is_inside == (declared.fault((value,)) == "")


@dataclasses.dataclass(frozen=True)
class Table:
    rate: float = setting(0.5, "r", low=0, below=1)
    word: str | float = setting("all", "w", choices=("all", "none"), low=0, high=1)

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(rate=1.0), r"rate 1.0 must be >= 0, < 1"),
        (dict(rate=math.nan), "rate nan must be finite, >= 0, < 1"),
        (dict(word="some"), """word 'some' is not one of "all" | "none", >= 0, <= 1"""),
        (dict(word=1.5), "word 1.5 must be"),
    ],
)
def test_a_fault_is_told_with_the_value_and_the_limit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as reported:
        Table(**values)
    assert message in str(reported.value)
    assert Table(word=0.25) and Table(word="none", rate=0)
