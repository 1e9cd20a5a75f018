"""The one reader of small files: a whole, sane, regular file, or one line in the package's own exception."""

from __future__ import annotations

import json
import math
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.files import FILES as PIPELINE_FILES
from student.config import StudentConfig
from student.errors import StudentError
from student.files import FILES as STUDENT_FILES
from teacher_cache.common.files import FILES as CACHE_FILES
from teacher_cache.common.small_files import (
    MAX_DEPTH,
    NoSuchFile,
    SmallFiles,
    is_there,
    parse_json,
    parse_toml,
    read_bytes,
    read_lines,
)
from teacher_cache.common.typed import Fault, typed
from teacher_cache.errors import CacheError

PACKAGES = {
    "pipeline": (PIPELINE_FILES, PipelineError),
    "student": (STUDENT_FILES, StudentError),
    "teacher_cache": (CACHE_FILES, CacheError),
}


def make_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the name of a socket may be 107 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


# What lies there instead of a file -> how it gets there, what is told of it
THINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "there is no such file"),
    "pipe": (os.mkfifo, "is a pipe"),
    "folder": (Path.mkdir, "is a folder"),
    "socket": (make_socket, "cannot be read"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "there is no such file"),
    "itself": (lambda path: path.symlink_to(path.name), "cannot be read"),
    "pipe behind a link": (
        lambda path: (os.mkfifo(path.with_name("p")), path.symlink_to("p")),
        "is a pipe",
    ),
    "long": (lambda path: path.write_bytes(b" " * 1001), "longer than 1,000 bytes"),
    "no UTF-8": (lambda path: path.write_bytes(b'{"a": "\xff"}'), "is not UTF-8 (byte 0xff)"),
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("package", PACKAGES)
def test_whatever_lies_there_is_one_line_of_the_package(tmp_path: Path, package: str, thing: str) -> None:
    files, error = PACKAGES[package]
    path, (make, told) = tmp_path / "a.json", THINGS[thing]
    make(path)
    with pytest.raises(error) as caught:
        files.json(path, "do this", limit=1000)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).endswith("; do this")
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["\0", "a" * 5000, "\ud800", "a/b"])
def test_a_name_that_no_file_can_have_is_a_fault_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(CacheError, match="do this"):
        CACHE_FILES.text(tmp_path / name, "do this")


def test_what_cannot_be_seen_is_not_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert is_there(tmp_path) and is_there(tmp_path / "link")
    assert not is_there(tmp_path / "gone") and not is_there(tmp_path / "link" / "gone")
    assert not is_there(tmp_path / "\0")


def test_a_file_of_exactly_the_limit_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 70_000)
    assert read_bytes(tmp_path / "a", 70_000) == b"x" * 70_000
    with pytest.raises(Fault, match="longer than 69,999 bytes"):
        read_bytes(tmp_path / "a", 69_999)
    with pytest.raises(NoSuchFile):
        read_bytes(tmp_path / "b")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=12,
)


@settings(max_examples=40)
@given(JSON, st.booleans())
def test_sane_json_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@given(st.text() | st.text('[]{}",:0123456789-+.eE\\uNaInfty '))
def test_any_text_is_a_value_or_a_fault(text: str) -> None:
    for parse in (parse_json, parse_toml):
        try:
            parse(text)
        except Fault as fault:
            assert str(fault)


NESTED = MAX_DEPTH * "[" + MAX_DEPTH * "]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" + NESTED + "]", "nested deeper"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        ('{"a": 1, "a": 1}', "the key 'a' twice"),
        ('{"b": {"a": 1, "a": 2}}', "the key 'a' twice"),
        ("[NaN]", "holds NaN"),
        ("-Infinity", "holds -Infinity"),
        ("1e999", "beyond all bounds"),
        ("9" * 309, "integer of 309 digits"),
        ("9" * 10_000, "integer of 10,000 digits"),
        (r'"\ud800"', "half a character"),
        (r'{"\udfff": 1}', "half a character"),
        ("[1] 2", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_what_json_would_let_pass_is_a_fault(text: str, told: str) -> None:
    with pytest.raises(Fault, match=told):
        parse_json(text)
    assert parse_json(NESTED) and parse_json(r'"\ud83d\ude00"') == "😀"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = " + "[" * 100_000, "nested deeper"),
        ("a = " + "[" * 100 + "]" * 100, "nested deeper"),
        ("[" + "a." * 5000 + "a]", "nested deeper"),
        ("a = 0x" + "f" * 10_000, "integer of 40,000 bits"),
        ("a = " + "9" * 10_000, "not valid TOML"),
        ("a = ", "not valid TOML"),
    ],
)
def test_toml_has_bounds_too(text: str, told: str) -> None:
    with pytest.raises(Fault, match=told):
        parse_toml(text)


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line)), st.integers(1, 9))
def test_a_bad_line_is_one_item_and_the_others_are_read(lines: list[bytes], limit: int) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n".join(lines))
        file.flush()
        found = list(read_lines(Path(file.name), limit))
    if lines and not lines[-1]:
        lines = lines[:-1]  # a line's end ends the last line too
    assert [number for number, _ in found] == list(range(1, len(lines) + 1))
    for (_, line), written in zip(found, lines, strict=True):
        try:
            text = written.removeprefix(b"\xef\xbb\xbf").decode().removesuffix("\r")
        except UnicodeDecodeError:
            text = None
        is_sound = text is not None and len(written) <= limit
        assert line == text if is_sound else isinstance(line, Fault)


@dataclass(frozen=True)
class Part:
    size: int
    rate: float | None = None


@dataclass(frozen=True)
class Record:
    name: str
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    flag: bool = False
    word: str | float = "all"
    rest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "refused":
            raise ValueError("name is refused")


@given(st.builds(Record, name=st.text(max_size=3).filter(lambda name: name != "refused")))
def test_a_record_survives_its_plain_values(record: Record) -> None:
    assert typed(Record, json.loads(json.dumps(asdict(record)))) == record
    assert typed(Record, asdict(record)) == record


def test_the_whole_config_of_a_student_survives_them() -> None:
    assert typed(StudentConfig, asdict(StudentConfig())) == StudentConfig()


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ([], r"is not a table: \[\]"),
        ({}, "lacks 'name'"),
        ({"name": 1}, "name = 1 is not of type str"),
        ({"name": "a", "nam": 1}, "unknown key 'nam'; did you mean 'name'"),
        ({"name": "a", "zzz": 1}, "unknown key 'zzz'; known: name, parts"),
        ({"name": "a", "parts": [1]}, r"\[parts\] is not a table: 1"),
        ({"name": "a", "parts": {"size": 1}}, "parts = .* is not of type tuple"),
        ({"name": "a", "parts": [{"size": 1.0}]}, "parts.size = 1.0 is not of type int"),
        ({"name": "a", "parts": [{"size": True}]}, "parts.size = True is not of type int"),
        (
            {"name": "a", "by_name": {"x": {"size": 1, "rate": "x"}}},
            "by_name.x.rate = 'x' is not of type float",
        ),
        ({"name": "a", "flag": 1}, "flag = 1 is not of type bool"),
        ({"name": "a", "word": None}, "word = None is not of type str | float"),
        ({"name": "refused"}, "name is refused"),
        ({"name": "a" * 5000, "flag": "b" * 5000}, r"flag = 'b{79}\.\.\. is not"),
    ],
)
def test_what_is_no_record_is_told_by_its_key(entry: Any, told: str) -> None:
    with pytest.raises(Fault, match=told):
        typed(Record, entry)


def test_an_integer_may_stand_for_a_number() -> None:
    rate = typed(Part, {"size": 1, "rate": 2}).rate
    assert rate == 2.0 and isinstance(rate, float) and math.isfinite(rate)


def test_the_bound_reader_reads(tmp_path: Path) -> None:
    files = SmallFiles(CacheError)
    (tmp_path / "a").write_text('{"size": 3}')
    assert files.record(Part, tmp_path / "a", "") == Part(3)
    assert files.json(tmp_path / "a", "") == {"size": 3}
    assert list(files.lines(tmp_path / "a", "")) == [(1, '{"size": 3}')]
    (tmp_path / "a").write_text("size = 3")
    assert files.toml(tmp_path / "a", "") == {"size": 3}
    assert files.text(tmp_path / "a", "").encode() == files.bytes(tmp_path / "a", "") == b"size = 3"
    (tmp_path / "a").write_text("one\ntwo\r\n")
    assert list(files.lines(tmp_path / "a", "")) == [(1, "one"), (2, "two")]
    (tmp_path / "a").write_bytes(b"one\n\xff\n")
    with pytest.raises(CacheError, match="line 2 is not UTF-8"):
        list(files.lines(tmp_path / "a", "mend it"))
