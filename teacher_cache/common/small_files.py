"""Small files from outside, by one reader: regular, bounded, strict UTF-8, shallow; any fault is one line.

Each package binds its own exception to it once, as a `SmallFiles`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from teacher_cache.common.typed import Fault, typed
from teacher_cache.settings import shown_value

MAX_BYTES = 64 << 20  # of a file that is read whole: the manifest of half a million shards and more
MAX_LINE_BYTES = 1 << 20
MAX_DEPTH = 64  # of lists and tables within each other
MAX_INTEGER_BITS = 1023  # what still is a float
_MAX_INTEGER_DIGITS = 308
_BLOCK_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE, _ESCAPED_SURROGATE = re.compile("[\ud800-\udfff]"), re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}

_Record = TypeVar("_Record")


class NoSuchFile(Fault):
    """There is nothing of that name."""


def is_there(path: Path) -> bool:
    """True where the name is taken, by whatever: what cannot be read is told, never taken for absent."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        pass
    return True


def open_regular(path: Path) -> BufferedReader:
    """A regular file, to be read; a link to one is followed, and a pipe is not waited for.

    Raises Fault for anything else, NoSuchFile where there is nothing.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoSuchFile("there is no such file") from None
    except (OSError, ValueError) as error:
        raise Fault(f"cannot be read ({_reason(error)})") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise Fault(f"is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a file")
    return os.fdopen(handle, "rb")


def require_files_only(folder: Path) -> None:
    """Raises Fault where a folder holds, at any depth, what is neither file nor folder.

    For libraries that open what they find in a folder: one would wait for a pipe.
    """
    for path in sorted(folder.rglob("*")):
        if not path.is_dir():
            try:
                open_regular(path).close()
            except Fault as fault:
                raise Fault(f"{path.relative_to(folder)} {fault}") from None


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The whole content. Raises Fault where it cannot be read or is longer than `limit` bytes."""
    content = bytearray()  # read until it ends: a file may grow, and those of /proc have no size
    with open_regular(path) as stream:
        try:
            while len(content) <= limit and (block := stream.read(_BLOCK_BYTES)):
                content += block
        except OSError as error:
            raise Fault(f"cannot be read ({_reason(error)})") from None
    if len(content) > limit:
        raise Fault(f"is longer than {limit:,} bytes")
    return bytes(content)


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The whole content, UTF-8. Raises Fault."""
    return as_text(read_bytes(path, limit))


def read_lines(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str | Fault]]:
    """(number from 1, line without its end); a line that is too long or no UTF-8 comes as its fault.

    The file may have any length, and only one line of it is held. Raises Fault where it cannot be read.
    """
    number = 0
    with open_regular(path) as stream:
        try:
            while line := stream.readline(limit + 1):
                number += 1
                is_whole = len(line) <= limit or line.endswith(b"\n")
                while line and not line.endswith(b"\n") and not is_whole:
                    line = stream.readline(limit)
                yield number, _line(line) if is_whole else Fault(f"is longer than {limit:,} bytes")
        except OSError as error:
            raise Fault(f"cannot be read ({_reason(error)})") from None


def as_text(content: bytes) -> str:
    """UTF-8, without a byte order mark. Raises Fault."""
    try:
        return content.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Fault(f"is not UTF-8 (byte {content[error.start]:#04x})") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text: numbers finite, no key twice, no half character, not too deep.

    Raises Fault.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise Fault(f"is nested deeper than {MAX_DEPTH}") from None
    except Fault:
        raise
    except ValueError as error:
        raise Fault(f"is not JSON ({error})") from None
    if text.count("[") + text.count("{") > MAX_DEPTH or _ESCAPED_SURROGATE.search(text):
        _check_tree(value)
    return value


def parse_object(text: str) -> dict[str, Any]:
    """The object of a JSON text. Raises Fault for any other value too."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise Fault("is not a JSON object")
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text, not too deep. Raises Fault."""
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise Fault(f"is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise Fault(f"is not valid TOML: {error}") from None
    _check_tree(tables)
    return tables


@dataclass(frozen=True, slots=True)
class SmallFiles:
    """What reads the small files of one package: any fault becomes its exception, which names the file.

    Every method takes `advice`, the next command, which ends the message.
    """

    error: type[Exception]

    @contextmanager
    def faults_told(self, path: Path | str, advice: str) -> Iterator[None]:
        """The package's exception for every Fault and OSError of the block."""
        try:
            yield
        except Fault as fault:
            raise self.error(f"{path}: {fault}; {advice}") from None
        except OSError as error:
            raise self.error(f"{path}: cannot be read ({_reason(error)}); {advice}") from None

    def bytes(self, path: Path, advice: str, limit: int = MAX_BYTES) -> bytes:
        """The whole content of a regular file."""
        with self.faults_told(path, advice):
            return read_bytes(path, limit)

    def files_only(self, folder: Path, advice: str) -> None:
        """Nothing where a folder holds files and folders alone, each of which can be read."""
        with self.faults_told(folder, advice):
            require_files_only(folder)

    def text(self, path: Path, advice: str, limit: int = MAX_BYTES) -> str:
        """The whole content, UTF-8."""
        with self.faults_told(path, advice):
            return read_text(path, limit)

    def lines(self, path: Path, advice: str, limit: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
        """(number from 1, line) of a file of any length; the first line that is none ends it."""
        with self.faults_told(path, advice):
            for number, line in read_lines(path, limit):
                if isinstance(line, Fault):
                    raise Fault(f"line {number} {line}")
                yield number, line

    def json(self, path: Path, advice: str, limit: int = MAX_BYTES) -> dict[str, Any]:
        """The one JSON object of a file."""
        with self.faults_told(path, advice):
            return parse_object(read_text(path, limit))

    def record(self, kind: type[_Record], path: Path, advice: str, limit: int = MAX_BYTES) -> _Record:
        """The dataclass whose fields are the JSON object of a file."""
        with self.faults_told(path, advice):
            return typed(kind, parse_object(read_text(path, limit)))

    def toml(self, path: Path, advice: str, limit: int = MAX_LINE_BYTES) -> dict[str, Any]:
        """The tables of a TOML file."""
        with self.faults_told(path, advice):
            return parse_toml(read_text(path, limit))


def _line(content: bytes) -> str | Fault:
    try:
        return as_text(content).removesuffix("\n").removesuffix("\r")
    except Fault as fault:
        return fault


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise Fault(f"holds the key {shown_value(twice)} twice")
    return found


def _constant(name: str) -> NoReturn:
    raise Fault(f"holds {name}, which is no JSON")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Fault(f"holds a number beyond all bounds, {shown_value(digits)}")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_INTEGER_DIGITS:
        raise Fault(f"holds an integer of {len(digits):,} digits")
    return int(digits)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer
)


def _check_tree(value: Any, depth: int = 0) -> None:
    """Raise Fault where a value of JSON or TOML is too deep, too large a number or half a character."""
    if isinstance(value, str) and _SURROGATE.search(value):
        raise Fault(f"holds half a character, {shown_value(value)}")
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise Fault(f"holds an integer of {value.bit_length():,} bits")
    if isinstance(value, dict | list):
        if depth == MAX_DEPTH:
            raise Fault(f"is nested deeper than {MAX_DEPTH}")
        for element in value:
            _check_tree(element, depth + 1)
        for element in value.values() if isinstance(value, dict) else ():
            _check_tree(element, depth + 1)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
