"""A setting's default, range, unit and reason: declared in one place, checked and documented from there."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

_Value = TypeVar("_Value")
_KEY = "setting"
MAX_CHARACTERS = 4096
_SHOWN_CHARACTERS = 80
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
NAME_RULE = "at most 100 letters, digits, '.', '_' and '-', the first a letter, a digit or '_'"


def is_name(text: str) -> bool:
    """True for what may name a split, a student, a teacher, a config or a cache: never a path."""
    return _NAME.fullmatch(text) is not None


def text_fault(text: str) -> str:
    """Why a text cannot be a path or a word, in words; "" where it can: no NUL, no half character."""
    if found := _UNWRITABLE.search(text):
        return f"holds the character U+{ord(found[0]):04X}"
    return "" if len(text) <= MAX_CHARACTERS else f"is longer than {MAX_CHARACTERS:,} characters"


def shown_value(value: Any) -> str:
    """A value for a message: in one line, its control characters escaped, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a value of one field may be, and why one would change it.

    low, high : inclusive bounds, of every element of a tuple     above, below : exclusive ones
    choices : the words that are allowed; beside numbers, where the field takes both
    names : a text must be a plain name, or ""
    """

    reason: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    names: bool = False

    @property
    def range(self) -> str:
        """The allowed values in words, "" where every value of the type is."""
        if self.names:
            return NAME_RULE
        words = " | ".join(f'"{choice}"' for choice in self.choices)
        bounds = ((">", self.above), (">=", self.low), ("<", self.below), ("<=", self.high))
        limits = [f"{sign} {_number(bound)}" for sign, bound in bounds if bound is not None]
        return ", ".join([words, *limits] if words else limits)

    def fault(self, value: Any) -> str:
        """What is wrong with a value, in words; "" where it may be."""
        if isinstance(value, list | tuple):
            return next((fault for element in value if (fault := self.fault(element))), "")
        if isinstance(value, str):
            return self._text_fault(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        if not math.isfinite(value):
            return f"must be finite, {self.range}" if self.range else "must be finite"
        is_inside = (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return "" if is_inside else f"must be {self.range}"

    def _text_fault(self, text: str) -> str:
        if self.choices:
            return "" if text in self.choices else f"is not one of {self.range}"
        if self.names and text and not is_name(text):
            return f"is no name: {NAME_RULE}"
        return text_fault(text)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def setting(
    default: _Value,
    reason: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] = (),
    names: bool = False,
) -> _Value:
    """A field of a frozen dataclass with this default; `check_settings` holds it to the range."""
    declared = Setting(
        reason=reason,
        unit=unit,
        low=low,
        high=high,
        above=above,
        below=below,
        choices=tuple(choices),
        names=names,
    )
    return dataclasses.field(default=default, metadata={_KEY: declared})


def required(reason: str, *, choices: Sequence[str] = ()) -> Any:
    """A field without a default."""
    return dataclasses.field(metadata={_KEY: Setting(reason=reason, choices=tuple(choices))})


def setting_of(field: dataclasses.Field[Any]) -> Setting | None:
    """What `setting` said of a field, None where it was declared without."""
    return cast("Setting | None", field.metadata.get(_KEY))


def check_settings(table: Any) -> None:
    """Raise ValueError for the first value of a dataclass that its declaration does not allow, NaN too."""
    for field in dataclasses.fields(table):
        declared = setting_of(field)
        value = getattr(table, field.name)
        if declared is not None and (fault := declared.fault(value)):
            raise ValueError(f"{field.name} {shown_value(value)} {fault}")
