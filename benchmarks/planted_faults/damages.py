"""What is done to a file in group 2: spoilt bytes, what is no file, sound containers."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from spoiling import bit_flipped

Damage = Callable[[Path], object]


def _instead(put: Damage) -> Damage:
    def replaced(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        put(path)

    return replaced


def bytes_instead(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


TEXT: dict[str, Damage] = {
    "no UTF-8": bytes_instead(b'{"step": 1, "\xff": 2}\n\n'),
    "too deep": bytes_instead(b"[" * 100_000 + b"\n\n"),
    "a key twice": bytes_instead(b'{"step": 1, "step": 1}\n\n'),
    "half a character": bytes_instead(b'{"step": "\\ud800"}\n\n'),
    "another kind of value": bytes_instead(b"[1, 2]\n\n"),
    "zeros": bytes_instead(bytes(5000) + b"\n\n"),
    "endless": lambda path: path.write_bytes(b" " * (65 << 20)),
}
NO_FILE: dict[str, Damage] = {
    "a FIFO": _instead(os.mkfifo),
    "a folder": _instead(Path.mkdir),
    "a device": _instead(lambda path: path.symlink_to("/dev/zero")),
}
TORN: dict[str, Damage] = {"half of it": half, "empty": bytes_instead(b"")}
BINARY: dict[str, Damage] = {**TORN, "a bit flipped": bit_flipped}  # where something vouches for each bit

# ---- sound containers with wrong contents ----


def _saved(content: object) -> Damage:
    return lambda path: torch.save(content, path)


def _changed(change: Callable[[dict], object]) -> Damage:
    def changed(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return changed


def _zip_of(**parts: bytes) -> Damage:
    def made(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)

    return made


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def malicious(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({**content, "more": _Malicious()}, path)


CHECKPOINTS: dict[str, Damage] = {
    "a zip of texts": _zip_of(notes=b"mine"),
    "a zip with another pickle": _zip_of(**{"archive/data.pkl": b"\x80\x02K\x01."}),
    "a list": _saved([1, 2]),
    "a tensor": _saved(torch.zeros(3)),
    "another format": _changed(lambda content: content.update(format_version=99)),
    "a part lost": _changed(lambda content: content.pop("config")),
    "a table of another type": _changed(lambda content: content.update(config=5)),
    "a setting out of range": _changed(lambda content: content["config"]["conformer"].update(num_heads=0)),
    "weights of another shape": _changed(
        lambda content: content["model"].update(
            {name: tensor[:1] for name, tensor in content["model"].items() if tensor.dim()}
        )
    ),
    "units that are none": _changed(
        lambda content: content.update(units_model=torch.zeros(9, dtype=torch.uint8))
    ),
    "a program": malicious,
}


def _tar_of(
    change: Callable[[str, bytes], tuple[str, bytes] | None], more: dict[str, tarfile.TarInfo] | None = None
) -> Damage:
    """The archive packed again with members changed, by who keeps its list of files as it is."""

    def changed(path: Path) -> None:
        with tarfile.open(path) as old:
            members = [(member.name, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
        with tarfile.open(path, "w") as new:
            for name, content in members:
                kept = change(name, content)
                if kept is not None:
                    info = tarfile.TarInfo(kept[0])
                    info.size = len(kept[1])
                    new.addfile(info, io.BytesIO(kept[1]))
            for info in (more or {}).values():
                new.addfile(info)

    return changed


def _link(name: str, target: str, kind: bytes) -> dict[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return {name: info}


def _listed(name: str, content: bytes, **facts: object) -> tuple[str, bytes]:
    if name != "contents.json":
        return name, content
    return name, json.dumps(json.loads(content) | facts).encode()


ARCHIVES: dict[str, Damage] = {
    "another member's name": _tar_of(lambda name, content: (name.replace("row/", "../row/"), content)),
    "a member lost": _tar_of(lambda name, content: None if name.endswith("plan.json") else (name, content)),
    "a member changed": _tar_of(
        lambda name, content: (name, content[:-1] + b"x") if "top_id/c" in name else (name, content)
    ),
    "a link": _tar_of(lambda name, content: (name, content), _link("x", "/etc/passwd", tarfile.SYMTYPE)),
    "a device": _tar_of(lambda name, content: (name, content), _link("x", "", tarfile.CHRTYPE)),
    "its list of files is no list": _tar_of(lambda name, content: _listed(name, content, files=[1])),
    "its list names a path that leaves": _tar_of(
        lambda name, content: _listed(name, content, files={"../x": {"bytes": 1, "sha256": "0" * 64}})
    ),
    "another fingerprint": _tar_of(lambda name, content: _listed(name, content, fingerprint="0" * 32)),
    "a zip": _zip_of(notes=b"mine"),
}
