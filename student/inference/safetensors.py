"""The safetensors format in plain numpy: eight bytes of header length, a JSON header, then the raw values.

The format is the library's, byte for byte readable by it; written here so that a recogniser needs no package
beyond those that it reads audio and decodes with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from student.errors import StudentError
from student.files import FILES
from teacher_cache.common.small_files import as_text, open_regular, parse_object
from teacher_cache.common.typed import Fault, convert, typed
from teacher_cache.settings import shown_value

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_METADATA = "__metadata__"
_LENGTH_BYTES, _ALIGNMENT = 8, 8
_MAX_HEADER_BYTES = 100_000_000  # the library's own limit


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file: the widest types first, then by name, as the library orders them."""
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    parts, start = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.dtype not in _NAMES or name == _METADATA:
            raise StudentError(f"{name}: a tensor of {tensor.dtype} cannot be exported; convert it first")
        content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + len(content)],
        }
        parts.append(content)
        start += len(content)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)  # the values start where they can be mapped
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *parts])


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU by name, and the metadata. Raises StudentError for anything but a whole file."""
    with FILES.faults_told(path, "not a whole safetensors file; copy it again, or export the run again"):
        with open_regular(path) as stream:
            content = stream.read()
        header, start = _header(content)
        metadata = convert(dict[str, str], header.pop(_METADATA, {}), _METADATA)
        entries = {name: typed(_Entry, entry, name) for name, entry in header.items()}
        values = np.frombuffer(bytearray(content[start:]), dtype=np.uint8)
        _check_cover(entries, len(values))
        return {name: _tensor(entry, values) for name, entry in entries.items()}, metadata


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """The JSON header, and where the values start."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(content) < _LENGTH_BYTES or length > _MAX_HEADER_BYTES or start > len(content):
        raise Fault(f"holds {len(content):,} bytes, a header of {length:,}")
    return parse_object(as_text(content[_LENGTH_BYTES:start])), start


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the header says of a tensor: a type's name, sizes, first byte and the one behind the last."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in _TYPES or len(self.data_offsets) != 2 or min(self.shape, default=0) < 0:
            raise ValueError(f"is of {shown_value(self.dtype)}, {self.shape} at {self.data_offsets}")


def _check_cover(entries: Mapping[str, _Entry], num_bytes: int) -> None:
    """Every byte belongs to exactly one tensor: a short file, a gap and an overlap are all refused."""
    reached = 0
    for first, last in sorted(entry.data_offsets for entry in entries.values()):
        if first != reached or last < first:
            raise Fault(f"has values at {first:,}, expected at {reached:,}")
        reached = last
    if reached != num_bytes:
        raise Fault(f"holds {num_bytes:,} bytes of values, expected {reached:,}")


def _tensor(entry: _Entry, values: np.ndarray) -> Tensor:
    dtype, shape = _TYPES[entry.dtype], entry.shape
    first, last = entry.data_offsets
    if prod(shape) * dtype.itemsize != last - first:
        raise Fault(f"gives shape {shape} of {entry.dtype} {last - first:,} bytes")
    if first == last:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(values[first:last].copy()).view(dtype).reshape(shape)
