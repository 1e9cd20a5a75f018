"""The store as the student and the pipeline see it; the format behind it is in docs/cache_format.md."""

from teacher_cache.store.manifest import Manifest, Recipe, read_manifest
from teacher_cache.store.reader import TeacherCacheReader
from teacher_cache.store.root import (
    collect_garbage,
    damaged_names,
    describe,
    list_caches,
    remove_cache,
    require_name,
    resolve,
    write_name,
)
from teacher_cache.store.targets import TargetsBatch, TeacherTargets

__all__ = [
    "Manifest",
    "Recipe",
    "TargetsBatch",
    "TeacherCacheReader",
    "TeacherTargets",
    "collect_garbage",
    "damaged_names",
    "describe",
    "list_caches",
    "read_manifest",
    "remove_cache",
    "require_name",
    "resolve",
    "write_name",
]
