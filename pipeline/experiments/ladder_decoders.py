"""Which decoders a ladder evaluates its students by, and how those with a language model are tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PipelineError
from student.decoding.names import DECODERS, FUSED, GREEDY
from teacher_cache.common.typed import refuse_unknown
from teacher_cache.settings import shown_value

DEV = "dev"  # the split on which weights are searched


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningSettings:
    """How weights are searched, by the table [tuning].

    utterances : of dev, evenly spread, 0 for all     beams : hypotheses kept, by decoder, else its own
    """

    utterances: int
    beams: Mapping[str, int]


def decoders_of(
    tables: Mapping[str, Any], students: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """Each student's decoders: of its own table, else the file's, else greedy alone.

    Raises PipelineError for a name that is no decoder.
    """
    for_all = _decoders(tables, "", (GREEDY,))
    return {name: _decoders(table, f"students.{name}: ", for_all) for name, table in students.items()}


def fused_students(decoders: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The students that have a decoder with a language model."""
    return [name for name, own in decoders.items() if set(own) & set(FUSED)]


def tuning_of(tables: Mapping[str, Any]) -> TuningSettings:
    """The table [tuning]: `utterances = N`, `beam = { DECODER = N }`; without it all of dev, their own."""
    table = tables.get("tuning", {})
    if not isinstance(table, dict):
        raise PipelineError(f"tuning = {shown_value(table)} must be a table: [tuning]")
    refuse_unknown(table, ["utterances", "beam"], "key of [tuning]")
    beams = table.get("beam", {})
    if not isinstance(beams, dict):
        raise PipelineError(f"tuning.beam = {shown_value(beams)} must be a table: {{ {FUSED[0]} = 8 }}")
    refuse_unknown(beams, list(FUSED), "decoder of tuning.beam")
    return TuningSettings(
        utterances=_count(table, "utterances") if "utterances" in table else 0,
        beams={name: _count(beams, name) for name in beams},
    )


def _decoders(table: Mapping[str, Any], place: str, default: tuple[str, ...]) -> tuple[str, ...]:
    try:
        named = value_list(table, "decoders", str, default)
    except PipelineError as error:
        raise PipelineError(f"{place}{error}") from None
    unknown = [name for name in named if name not in DECODERS]
    if unknown:
        raise PipelineError(f"{place}no decoder {shown_value(unknown[0])}; there are {', '.join(DECODERS)}")
    return named


def _count(table: Mapping[str, Any], key: str) -> int:
    value = table[key]
    if type(value) is not int or value < 1:
        raise PipelineError(f"tuning: {key} = {shown_value(value)} must be a whole number, at least 1")
    return value


def value_list(tables: Mapping[str, Any], key: str, kind: type, default: tuple[Any, ...]) -> tuple[Any, ...]:
    """A list of different values of one type; the default only where the key is absent."""
    if key not in tables:
        return default
    value = tables[key]
    if not isinstance(value, list) or not value or any(type(entry) is not kind for entry in value):
        raise PipelineError(
            f"{key} = {shown_value(value)} must be a list of {kind.__name__}, at least one; or left out"
        )
    if len(set(value)) < len(value):
        raise PipelineError(f"{key} = {shown_value(value)} names one of them twice")
    return tuple(value)
