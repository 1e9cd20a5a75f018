"""Sound files, spoilt at random: as bytes, as values, as lines, signed again by whoever forged them."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from teacher_cache.common.files import canonical_json, sha256_of

Spoil = Callable[[bytes, random.Random], bytes]

PIECES = [
    *(bytes([character]) for character in b'{}[]",:=# \n\0\xff\xc3'), b"\xed\xa0\x80", b"null", b"true",
    b"NaN", b"-1", b"1e999", b"9" * 400, b"0x" + b"f" * 400, b"inf", b"nan", b"\\ud800", b"\\u0000",
    b"[" * 2000, b'{"a":' * 500, b"[[a]]", b"a.b.c", b"'''", b"../../x", b"\x1b[2J", b"1979-05-27", b"\r\n",
    b"\xef\xbb\xbf",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 2**63, 10**300, -(10**23), 0.5, float("nan"), float("inf"), "", "x", "\0", "../x",
    "\ud800", "é" * 300, [], {}, [1], [None], {"a": 1}, [[[]]], {"": {}},
]  # fmt: skip


def texts_exchanged(manifest: Path) -> None:
    """Each of the first two utterances is said to be the other."""
    first, second, *others = [json.loads(line) for line in manifest.read_text().splitlines()]
    first["text"], second["text"] = second["text"], first["text"]
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in (first, second, *others)))


def bit_flipped(path: Path) -> None:
    """One bit, a third of the way in."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def spoilt_bytes(content: bytes, chance: random.Random) -> bytes:
    """A few random changes: bytes flipped, cut, doubled, moved, or pieces of grammar put in."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at, length = chance.randrange(len(changed) + 1), chance.choice((1, 1, 4, 30, 300))
        match chance.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = chance.choice(PIECES)
            case 3:
                changed[at : at + length] = chance.choice(PIECES)
            case 4:
                other = chance.randrange(len(changed) + 1)
                changed[at:at] = changed[other : other + length]
            case _:
                del changed[at:]
        if not changed:
            break
    return bytes(changed)


def spoilt_value(value: Any, chance: random.Random) -> Any:
    """The same nested value with one part replaced, taken away or added."""
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        changed: Any = dict(value) if isinstance(value, dict) else list(value)
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        match chance.randrange(6):
            case 0:
                del changed[key]
            case 1 if isinstance(changed, dict):
                changed[chance.choice(("x", "", "\0", key))] = chance.choice(VALUES)
            case _:
                changed[key] = spoilt_value(value[key], chance)
        return changed
    return chance.choice(VALUES)


def spoilt_json(content: bytes, chance: random.Random) -> bytes:
    """A JSON text, spoilt as a value or as bytes."""
    if chance.random() < 0.5:
        return spoilt_bytes(content, chance)
    return json.dumps(spoilt_value(json.loads(content), chance)).encode()


def spoilt_lines(content: bytes, chance: random.Random) -> bytes:
    """JSON lines, one of them spoilt."""
    lines = content.splitlines()
    which = chance.randrange(len(lines))
    lines[which] = spoilt_json(lines[which], chance)
    return b"\n".join(lines) + b"\n"


def spoilt_signed(content: bytes, chance: random.Random) -> bytes:
    """A cache's manifest, spoilt and signed again, as whoever forges one would."""
    entry = json.loads(content)
    del entry["sha256"]
    entry = spoilt_value(entry, chance)
    if isinstance(entry, dict):
        try:
            entry["sha256"] = sha256_of(canonical_json(entry))
        except ValueError:  # NaN
            entry["sha256"] = ""
    return json.dumps(entry).encode()


def spoilt_checkpoint(content: bytes, chance: random.Random) -> bytes:
    """A checkpoint in a sound zip: its tables spoilt as values, or its pickle as bytes."""
    if chance.random() < 0.5:
        tables = torch.load(io.BytesIO(content), weights_only=True)
        stream = io.BytesIO()
        torch.save(spoilt_value(tables, chance), stream)
        return stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for part in old.infolist():
            is_pickle = part.filename.endswith("data.pkl")
            new.writestr(part.filename, spoilt_bytes(old.read(part), chance) if is_pickle else old.read(part))
    return stream.getvalue()


def spoilt_safetensors(content: bytes, chance: random.Random) -> bytes:
    """Its header spoilt as a value, with its length, or the whole as bytes."""
    if chance.random() < 0.3:
        return spoilt_bytes(content, chance)
    length = int.from_bytes(content[:8], "little")
    header = spoilt_json(content[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]
