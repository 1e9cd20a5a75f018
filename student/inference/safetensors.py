"""The safetensors format in plain numpy: eight bytes of header length, a JSON header, then the raw values.

The format is the library's, byte for byte readable by it; written here so that a recogniser needs no package
beyond those that it reads audio and decodes with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from student.errors import StudentError

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
    content = path.read_bytes()
    try:
        header, start = _header(content)
        metadata = header.pop(_METADATA, {})
        values = np.frombuffer(bytearray(content[start:]), dtype=np.uint8)
        _check_cover(header, len(values))
        return {name: _tensor(entry, values) for name, entry in header.items()}, dict(metadata)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StudentError(
            f"{path}: not a whole safetensors file ({error}); copy it again, or export the run again"
        ) from None


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """The JSON header, and where the values start."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(content) < _LENGTH_BYTES or length > _MAX_HEADER_BYTES or start > len(content):
        raise ValueError(f"{len(content)} bytes, a header of {length}")
    header = json.loads(content[_LENGTH_BYTES:start].decode())
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    return header, start


def _check_cover(header: Mapping[str, Mapping[str, Any]], num_bytes: int) -> None:
    """Every byte belongs to exactly one tensor: a short file, a gap and an overlap are all refused."""
    reached = 0
    for first, last in sorted(tuple(entry["data_offsets"]) for entry in header.values()):
        if first != reached or last < first:
            raise ValueError(f"values at {first}, expected at {reached}")
        reached = last
    if reached != num_bytes:
        raise ValueError(f"{num_bytes} bytes of values, expected {reached}")


def _tensor(entry: Mapping[str, Any], values: np.ndarray) -> Tensor:
    dtype, shape = _TYPES[entry["dtype"]], [int(size) for size in entry["shape"]]
    first, last = entry["data_offsets"]
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != last - first:
        raise ValueError(f"shape {shape} of {entry['dtype']} in {last - first} bytes")
    if first == last:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(values[first:last].copy()).view(dtype).reshape(shape)
