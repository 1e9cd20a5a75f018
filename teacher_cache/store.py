"""The store as others see it; the format behind it is in docs/cache_format.md."""

from teacher_cache.catalogue import (
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
from teacher_cache.errors import CacheError
from teacher_cache.layout import Layout
from teacher_cache.publish import publish
from teacher_cache.reader import TeacherCacheReader, TeacherTargets
from teacher_cache.records import read_manifest
from teacher_cache.reuse import ReusablePassages, copy_rows, find_reusable
from teacher_cache.rows import RowBlock
from teacher_cache.schema import Manifest, Receipt, Recipe
from teacher_cache.writer import CacheWriter

__all__ = [
    "CacheEntry",
    "CacheError",
    "CacheWriter",
    "Layout",
    "Manifest",
    "Receipt",
    "Recipe",
    "ReusablePassages",
    "RowBlock",
    "TeacherCacheReader",
    "TeacherTargets",
    "building_path",
    "collect_garbage",
    "copy_rows",
    "describe",
    "find_reusable",
    "list_caches",
    "lock_path",
    "publish",
    "read_manifest",
    "remove_cache",
    "resolve",
    "write_name",
]
