"""A server that redirects reaches other web servers, and neither FTP nor the files of this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.corpus.download import download
from pipeline.corpus.http import Patience
from pipeline.corpus.openslr import Archive
from pipeline.errors import PipelineError
from teacher_cache.common.web import open_url
from teacher_cache.errors import CacheError
from teacher_cache.sharing.object_store import remote_contents
from teacher_cache.sharing.transport import opened


class Redirecting:
    """A server on loopback: /to/ADDRESS redirects there, /file is a file; `asked` are the paths in order."""

    def __init__(self, port: int) -> None:
        self.url, self.asked = f"http://127.0.0.1:{port}", list[str]()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Redirecting]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            to, _, address = self.path.removeprefix("/").partition("/")
            if to.isdecimal():
                self.send_response(int(to))
                self.send_header("Location", address.partition("?")[0].replace("@", state.url))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"whole")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Redirecting(http.server_port)
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "secret"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_within_the_web_is_followed(server: Redirecting, code: int) -> None:
    with open_url(f"{server.url}/{code}/@/file", 5.0) as answer:
        assert answer.read() == b"whole"
    assert server.asked == [f"/{code}/@/file", "/file"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["ftp", "FTP", "file", "data", "gopher"])
def test_an_archive_or_a_download_that_leaves_the_web_is_refused(
    server: Redirecting, secret: Path, tmp_path: Path, scheme: str, code: int
) -> None:
    address = f"{server.url}/{code}/{scheme}://127.0.0.1:9{secret}"
    with pytest.raises(CacheError, match="not allowed"), opened(address):
        pass
    table = {"x": Archive("", "12", 6, "sha256:", 1)}
    hasty = Patience(tries=3, first_pause_seconds=0.001, timeout_seconds=5.0)
    with pytest.raises(PipelineError, match="not allowed"):
        download(["x"], tmp_path / "data", f"{address}?", table, hasty)
    assert len(server.asked) == 2  # refused at once, and nothing else was asked for


@pytest.mark.parametrize("scheme", ["ftp", "file"])
def test_a_pull_that_leaves_the_web_is_refused(server: Redirecting, secret: Path, scheme: str) -> None:
    with pytest.raises(CacheError, match="cannot be reached"):
        remote_contents(f"{server.url}/302/{scheme}://127.0.0.1{secret}")


@pytest.mark.parametrize("base", ["path", "uri"])
def test_a_download_from_a_folder_needs_no_network_and_speaks_of_none(tmp_path: Path, base: str) -> None:
    mirror = tmp_path / "my mirror"
    mirror.mkdir()
    (mirror / "lm.txt").write_bytes(b"whole")
    table = {"x": Archive("lm.txt", "11", 5, f"md5:{'0' * 32}")}
    url = str(mirror) if base == "path" else mirror.as_uri()
    with pytest.raises(PipelineError, match="5 bytes came"):
        download(["x"], tmp_path / "data", url, table)
    (mirror / "lm.txt").unlink()
    with pytest.raises(PipelineError, match=r"lm\.txt: cannot be read \(No such file") as caught:
        download(["x"], tmp_path / "data", url, table)
    assert not any(word in str(caught.value) for word in ("network", "server", "times in a row"))
    os.mkfifo(mirror / "lm.txt")
    with pytest.raises(PipelineError, match=r"lm\.txt: is a pipe, not a file; see the path"):
        download(["x"], tmp_path / "data", url, table)
    with pytest.raises(PipelineError, match="--base-url gopher://x"):
        download(["x"], tmp_path / "data", "gopher://x", table)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source", ["{}/pipe.tar", "file://{}/pipe.tar"])
def test_a_pipe_in_place_of_an_archive_or_an_object_is_refused_and_not_waited_for(
    tmp_path: Path, source: str
) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with (
        pytest.raises(CacheError, match=r"pipe\.tar: is a pipe, not a file"),
        opened(source.format(tmp_path)),
    ):
        pass
    os.mkfifo(tmp_path / "manifest.json")
    (tmp_path / "contents.json").write_text("{}")
    with pytest.raises(CacheError, match="is a pipe, not a file"):
        remote_contents(f"file://{tmp_path}")


@pytest.mark.parametrize("source", ["{}/none.tar", "file://{}/none.tar", "{}"])
def test_a_local_archive_that_cannot_be_read_is_no_matter_of_networks(tmp_path: Path, source: str) -> None:
    with (
        pytest.raises(CacheError, match="cannot be read or written|is a folder, not a file") as caught,
        opened(source.format(tmp_path)),
    ):
        pass
    assert "network" not in str(caught.value) and "credentials" not in str(caught.value)
