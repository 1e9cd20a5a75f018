"""A setting's default, range, unit and reason: declared in one place, checked and documented from there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

_Value = TypeVar("_Value")
_KEY = "setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a value of one field may be, and why one would change it.

    low, high : inclusive bounds, of every element of a tuple     above, below : exclusive ones
    choices : the words that are allowed; beside numbers, where the field takes both
    """

    reason: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The allowed values in words, "" where every value of the type is."""
        words = " | ".join(f'"{choice}"' for choice in self.choices)
        bounds = ((">", self.above), (">=", self.low), ("<", self.below), ("<=", self.high))
        limits = [f"{sign} {_number(bound)}" for sign, bound in bounds if bound is not None]
        return ", ".join([words, *limits] if words else limits)

    def fault(self, value: Any) -> str:
        """What is wrong with a value, in words; "" where it may be."""
        if isinstance(value, list | tuple):
            return next((fault for element in value if (fault := self.fault(element))), "")
        if isinstance(value, str):
            return "" if not self.choices or value in self.choices else f"is not one of {self.range}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        if not math.isfinite(value):
            return "must be finite"
        is_inside = (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return "" if is_inside else f"must be {self.range}"


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
            raise ValueError(f"{field.name} {value!r} {fault}")
