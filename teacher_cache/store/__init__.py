"""The store as others see it; the format behind it is in docs/cache_format.md."""

from teacher_cache.errors import CacheError
from teacher_cache.store.layout import Layout
from teacher_cache.store.manifest import Manifest, Receipt, Recipe
from teacher_cache.store.publish import publish
from teacher_cache.store.reader import TeacherCacheReader, TeacherTargets
from teacher_cache.store.records import read_manifest
from teacher_cache.store.root import (
    CacheEntry,
    building_path,
    collect_garbage,
    describe,
    list_caches,
    lock_path,
    remove_cache,
    resolve,
    write_name,
)
from teacher_cache.store.rows import RowBlock
from teacher_cache.store.writer import CacheWriter

__all__ = [
    "CacheEntry",
    "CacheError",
    "CacheWriter",
    "Layout",
    "Manifest",
    "Receipt",
    "Recipe",
    "RowBlock",
    "TeacherCacheReader",
    "TeacherTargets",
    "building_path",
    "collect_garbage",
    "describe",
    "list_caches",
    "lock_path",
    "publish",
    "read_manifest",
    "remove_cache",
    "resolve",
    "write_name",
]
