"""Records of older runs lack keys that came later: a missing key meant what its default means now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.config import DataConfig
from pipeline.demo.plan import DemoCorpusConfig
from student.config import StudentConfig
from teacher_cache.config import BuildConfig, CacheConfig, TeacherConfig, TeacherTrainingConfig

_TABLES: dict[str, Any] = {
    "demo_corpus": DemoCorpusConfig,
    "data": DataConfig,
    "teacher": TeacherConfig,
    "teacher_training": TeacherTrainingConfig,
    "cache": CacheConfig,
    "build": BuildConfig,
    **{entry.name: type(getattr(StudentConfig(), entry.name)) for entry in dataclasses.fields(StudentConfig)},
}


def with_defaults(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a config, JSON-ready, with every key that they lack at its default.

    A table that is absent stays so, and so does a key without a default.
    """
    return {
        name: _defaults(_TABLES[name]) | dict(table)
        if name in _TABLES and isinstance(table, Mapping)
        else table
        for name, table in tables.items()
    }


def _defaults(table_type: Any) -> dict[str, Any]:
    found = {}
    for entry in dataclasses.fields(table_type):
        if entry.default is not dataclasses.MISSING:
            found[entry.name] = entry.default
        elif entry.default_factory is not dataclasses.MISSING:
            found[entry.name] = entry.default_factory()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
