"""The `zarr.json` of every group and array: read by us and held to the format before zarr obeys them.

They say how bytes become labels (fill values, codecs, shapes), so what they may say is a list, not all that
zarr knows: one of its codecs unpickles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.common.files import FILES
from teacher_cache.common.small_files import as_text, parse_object, read_bytes
from teacher_cache.common.typed import Fault
from teacher_cache.store.layout import (
    ROW_ARRAYS,
    TABLE_ARRAYS,
    VOCABULARY_BYTES,
    ArraySpec,
    Layout,
    array_specs,
    table_spec,
)

METADATA = "zarr.json"
GROUPS = ("row", "passage", "vocabulary")
METADATA_FILES = tuple(
    f"{folder}/{METADATA}".lstrip("/") for folder in ("", *GROUPS, *ROW_ARRAYS, *TABLE_ARRAYS)
)
MAX_METADATA_BYTES = 1 << 20

_CHUNK_KEYS = {"name": "default", "configuration": {"separator": "/"}}
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


def metadata_sha256(path: Path) -> dict[str, str]:
    """Path of every zarr.json -> sha256 of its bytes, hexadecimal. Raises CacheError where one is absent."""
    advice = "build the cache again with `bert2ctc cache build`"
    files = {name: FILES.bytes(path / name, advice, MAX_METADATA_BYTES) for name in METADATA_FILES}
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def metadata_faults(path: Path, layout: Layout, vouched: Mapping[str, str]) -> list[str]:
    """What is not as the layout implies, and what is not what the manifest vouches for, one line each.

    vouched : `metadata_sha256` of the manifest; {} for a build, and for a cache of version 0.1
    """
    specs: dict[str, ArraySpec] = array_specs(layout)
    faults = []
    for name in METADATA_FILES:
        array = name.rpartition("/")[0]
        try:
            content = read_bytes(path / name, MAX_METADATA_BYTES)
            entry = parse_object(as_text(content))
        except Fault as error:
            faults.append(f"{path}: cannot open {array or 'its Zarr group'} ({METADATA} {error})")
            continue
        if array in ("", *GROUPS):
            fault = _group_fault(entry)
        else:
            fault = _array_fault(array, entry, specs.get(array) or _vocabulary_spec(entry))
        if not fault and vouched and hashlib.sha256(content).hexdigest() != vouched.get(name):
            fault = f"{name} is not what the manifest vouches for"
        if fault:
            faults.append(fault)
    return faults


def vocabulary_bytes(path: Path) -> int:
    """The length of `vocabulary/utf8`, which no layout gives; 0 where nothing says it."""
    try:
        content = read_bytes(path / VOCABULARY_BYTES / METADATA, MAX_METADATA_BYTES)
        return int(parse_object(as_text(content))["shape"][0])
    except (ValueError, KeyError, IndexError, TypeError):  # a Fault is a ValueError
        return 0


def _group_fault(entry: Mapping[str, Any]) -> str:
    if entry.get("zarr_format") != 3 or entry.get("node_type") != "group":
        return "its zarr.json is that of no Zarr v3 group"
    if entry.get("consolidated_metadata") is not None:
        return "zarr.json holds consolidated metadata, which would stand for that of the arrays"
    return ""


def _vocabulary_spec(entry: Mapping[str, Any]) -> ArraySpec | None:
    shape = entry.get("shape")
    if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int) and shape[0] > 0:
        return table_spec((shape[0],), "|u1")
    return None


def _array_fault(array: str, entry: Mapping[str, Any], spec: ArraySpec | None) -> str:
    shape, dtype = entry.get("shape"), _dtype_of(entry.get("data_type"))
    if spec is None or shape != list(spec.shape) or dtype != np.dtype(spec.dtype).str:
        told = "|u1 of one axis" if spec is None else f"{spec.dtype} {spec.shape}"
        found = tuple(shape) if isinstance(shape, list) else shape
        return f"{array} is {dtype} {found}, format 1 says {told}"
    fill = "NaN" if np.dtype(spec.dtype).kind == "f" else spec.fill
    wanted: dict[str, object] = {
        "zarr_format": 3,
        "node_type": "array",
        "fill_value": fill,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.shards or spec.chunks)}},
        "chunk_key_encoding": _CHUNK_KEYS,
    }
    for key, value in wanted.items():
        if entry.get(key) != value:
            return f"{array}: {key} is {entry.get(key)!r}, format 1 says {value!r}"
    if entry.get("storage_transformers"):
        return f"{array}: storage_transformers are none of format 1"
    codecs = entry.get("codecs")
    if spec.shards is not None:
        (codecs, fault) = _within_shard(codecs, spec)
        if fault:
            return f"{array}: {fault}"
    return "" if _are_known(codecs, spec) else f"{array}: its codecs are not those of format 1"


def _dtype_of(name: Any) -> str:
    known = {np.dtype(dtype).name: np.dtype(dtype).str for dtype in ("u1", "<u2", "<u4", "<i4", "<i8", "<f4")}
    return known.get(name, repr(name)) if isinstance(name, str) else repr(name)


def _within_shard(codecs: Any, spec: ArraySpec) -> tuple[Any, str]:
    """The codecs of the inner chunks, and what is wrong with the shards around them."""
    if not isinstance(codecs, list) or len(codecs) != 1 or not isinstance(codecs[0], dict):
        return None, "is not sharded, as format 1 says"
    sharding = codecs[0].get("configuration")
    if codecs[0].get("name") != "sharding_indexed" or not isinstance(sharding, dict):
        return None, "is not sharded, as format 1 says"
    wanted = {"chunk_shape": list(spec.chunks), "index_codecs": _INDEX_CODECS, "index_location": "end"}
    for key, value in wanted.items():
        if sharding.get(key) != value:
            return None, f"{key} is {sharding.get(key)!r}, format 1 says {value!r}"
    return sharding.get("codecs"), ""


def _are_known(codecs: Any, spec: ArraySpec) -> bool:
    """bytes, blosc, crc32c, behind a delta where there is one: levels and shuffles have changed over time."""
    if not isinstance(codecs, list) or not all(isinstance(codec, dict) for codec in codecs):
        return False
    names = [codec.get("name") for codec in codecs]
    if names[:1] == ["numcodecs.delta"]:
        configuration = codecs[0].get("configuration")
        stored = np.dtype(spec.dtype).str
        if not isinstance(configuration, dict) or not spec.delta:
            return False
        if configuration.get("dtype") != stored or configuration.get("astype", stored) != stored:
            return False
        names = names[1:]
    return names == ["bytes", "blosc", "crc32c"] and _is_little(codecs[-3])


def _is_little(codec: Mapping[str, Any]) -> bool:
    configuration = codec.get("configuration") or {}
    return isinstance(configuration, dict) and configuration.get("endian", "little") == "little"
