"""A teacher's folder: found or fetched once, safetensors only, refused when it is another's."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from teacher_cache.config import TeacherConfig
from teacher_cache.errors import CacheError
from teacher_cache.teacher.folder import read_note, resolve_teacher, write_teacher
from teacher_cache.teacher.identity import identify_teacher

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The two calls of a model hub that fetching needs: facts about a model, and its files."""

    def __init__(self, folder: Path, *arguments: object, **settings: object) -> None:
        self.folder = folder
        super().__init__(*arguments, **settings)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        prefix = f"/maker/small/resolve/{COMMIT}/"
        if self.path.startswith("/api/models/maker/small"):
            files = sorted(self.folder.iterdir())
            if "/tree/" in self.path:
                entries = [
                    {"type": "file", "path": path.name, "oid": self._tag(path), "size": path.stat().st_size}
                    for path in files
                ]
                return self._send(json.dumps(entries).encode(), "application/json")
            siblings = [{"rfilename": path.name, "size": path.stat().st_size} for path in files]
            facts = {"id": "maker/small", "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}
            return self._send(json.dumps(facts).encode(), "application/json")
        if self.path.startswith(prefix) and (self.folder / self.path[len(prefix) :]).is_file():
            path = self.folder / self.path[len(prefix) :]
            return self._send(path.read_bytes(), "application/octet-stream", self._tag(path))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _tag(self, path: Path) -> str:
        return hashlib.sha1(path.read_bytes()).hexdigest()

    def _send(self, body: bytes, kind: str, tag: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if tag:
            self.send_header("ETag", f'"{tag}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(bert_folder: Path, tmp_path: Path) -> Iterator[str]:
    served = tmp_path / "served"
    shutil.copytree(bert_folder, served)
    (served / "pytorch_model.bin").write_bytes(b"a pickle that nobody may load")
    (served / "README.md").write_text("---\nlicense: mit\n---\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, served))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def resolve_elsewhere(
    endpoint: str, folder: Path, model: str = "maker/small"
) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's address is read once, when its client is imported."""
    code = (
        "import sys; from pathlib import Path\n"
        "from teacher_cache.config import TeacherConfig\n"
        "from teacher_cache.teacher.folder import resolve_teacher\n"
        f"print(resolve_teacher(TeacherConfig(model={model!r}), Path({str(folder)!r})))\n"
    )
    home = str(folder.parent / "hub-home")
    loopback = {"HF_ENDPOINT": endpoint, "HF_HOME": home, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment = {**os.environ, **loopback}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_a_hub_name_is_fetched_once_without_pickles_and_its_commit_and_licence_recorded(
    hub: str, bert_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "teachers" / "small"
    done = resolve_elsewhere(hub, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder)
    assert not list(folder.glob("*.bin"))
    assert identify_teacher(folder).files_sha256 == identify_teacher(bert_folder).files_sha256
    identity = identify_teacher(folder)
    assert (identity.model, identity.revision, identity.licence) == ("maker/small", COMMIT, "mit")
    assert resolve_teacher(TeacherConfig(model="maker/small"), folder) == folder  # without any hub
    with pytest.raises(CacheError, match="move it away"):
        resolve_teacher(TeacherConfig(model="maker/small", revision="v2"), folder)


def test_an_unknown_hub_name_is_one_line_and_leaves_no_folder(hub: str, tmp_path: Path) -> None:
    folder = tmp_path / "teachers" / "none"
    done = resolve_elsewhere(hub, folder, model="maker/none")
    assert "CacheError: maker/none: cannot be fetched" in done.stderr.splitlines()[-1]
    assert not folder.exists()


def test_a_hub_model_without_safetensors_is_refused_before_it_is_fetched(hub: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "model.safetensors").unlink()
    folder = tmp_path / "teachers" / "small"
    done = resolve_elsewhere(hub, folder)
    assert "no *.safetensors" in done.stderr.splitlines()[-1]
    assert not folder.exists()


def test_a_local_folder_is_used_where_it_is(bert_folder: Path, tmp_path: Path) -> None:
    assert resolve_teacher(TeacherConfig(model=str(bert_folder)), tmp_path / "unused") == bert_folder
    assert not (tmp_path / "unused").exists()


def test_a_local_folder_without_safetensors_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(bert_folder, tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").rename(tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(CacheError, match="no \\*.safetensors"):
        resolve_teacher(TeacherConfig(model=str(tmp_path / "old")), tmp_path / "unused")


@pytest.mark.parametrize("model", ["/nowhere/bert", "./nowhere", "a/b/c"])
def test_a_path_that_is_no_folder_is_never_asked_of_the_hub(model: str, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no such folder"):
        resolve_teacher(TeacherConfig(model=model), tmp_path / "unused")


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    assert read_note(tmp_path) is None
    (tmp_path / "bert2ctc_teacher.json").write_text("{")
    with pytest.raises(CacheError, match="bert2ctc_teacher.json: is not JSON"):
        read_note(tmp_path)


def test_a_teacher_whose_weights_are_not_finite_is_never_saved(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    with pytest.raises(CacheError, match="not saved: weight holds NaN or infinity"):
        write_teacher(tmp_path / "teacher", model, None, {})
    assert not list(tmp_path.iterdir())
