"""Our safetensors against the library's, both ways, and every kind of damage refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from student.errors import StudentError
from student.inference.safetensors import read_safetensors, safetensors_bytes

TENSORS = {
    "weight": torch.randn(3, 5),
    "half": torch.randn(7).to(torch.bfloat16),
    "float16": torch.randn(2, 1, 2).half(),
    "double": torch.randn(2, dtype=torch.float64),
    "counts": torch.arange(-3, 4),
    "small": torch.tensor([-1, 5], dtype=torch.int8),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "flags": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "ünïcode": torch.ones(1),
}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype
        and tensor.shape == other[name].shape
        and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    transposed = {"transposed": torch.randn(4, 3).t(), "part": torch.randn(6, 2)[::2]}
    (tmp_path / "a").write_bytes(safetensors_bytes(TENSORS | transposed, {"format": "pt"}))
    assert same(TENSORS | transposed, load_file(tmp_path / "a"))


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a", {"format": "pt"})
    tensors, metadata = read_safetensors(tmp_path / "a")
    assert same(TENSORS, tensors) and metadata == {"format": "pt"}


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    backwards = dict(reversed(TENSORS.items()))
    assert safetensors_bytes(TENSORS, {}) == safetensors_bytes(backwards, {})


def test_the_tensors_that_were_read_may_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(safetensors_bytes(TENSORS, {}))
    tensors, _ = read_safetensors(tmp_path / "a")
    tensors["weight"].zero_()
    assert tensors["scalar"] == 2.5 and tensors["double"].abs().min() > 0


def header_of(content: bytes) -> tuple[dict[str, object], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: object, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def damaged(kind: str) -> bytes:
    content = safetensors_bytes({"a": torch.ones(4), "b": torch.ones(2)}, {})
    header, values = header_of(content)
    entry = dict(header["a"])  # type: ignore[call-overload]
    return {
        "empty": b"",
        "short": content[:-1],
        "long": content + b"\0",
        "no header": content[:4],
        "huge header": (1 << 60).to_bytes(8, "little") + content[8:],
        "not json": content[:8] + b"x" * (len(content) - 8),
        "a list": joined([1], values),
        "an unknown type": joined(header | {"a": entry | {"dtype": "F3"}}, values),
        "another shape": joined(header | {"a": entry | {"shape": [5]}}, values),
        "a negative shape": joined(header | {"a": entry | {"shape": [-2, -2]}}, values),
        "a gap": joined({"b": header["b"]}, values),
        "an overlap": joined(header | {"c": entry}, values),
        "no offsets": joined(header | {"a": {"dtype": "F32", "shape": [4]}}, values),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["empty", "short", "long", "no header", "huge header", "not json", "a list", "an unknown type"]
    + ["another shape", "a negative shape", "a gap", "an overlap", "no offsets"],
)
def test_damage_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(damaged(kind))
    with pytest.raises(StudentError, match="not a whole safetensors file") as caught:
        read_safetensors(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_a_type_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(StudentError, match="complex64"):
        safetensors_bytes({"a": torch.ones(1, dtype=torch.complex64)}, {})
