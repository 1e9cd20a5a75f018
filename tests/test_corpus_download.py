"""`bert2ctc data download` against a server on loopback that cuts, ignores ranges, and corrupts."""

from __future__ import annotations

import fcntl
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakes import tones

from pipeline.config import SplitConfig
from pipeline.corpus.download import download, plan_download
from pipeline.corpus.http import Patience
from pipeline.corpus.openslr import LM_TEXT, SUBSETS, TABLE, Archive
from pipeline.corpus.read import CorpusLocation, read_split
from pipeline.errors import PipelineError

HASTY = Patience(tries=3, first_pause_seconds=0.001, timeout_seconds=5.0)
UTTERANCES = 3


@dataclass
class Server:
    """files : name to content     faults : one per coming request, then none     requests : (name, range)"""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, span = handler.path.rpartition("/")[2], handler.headers.get("Range", "")
        self.requests.append((name, span))
        fault, _, argument = (self.faults.pop(0) if self.faults else "").partition(" ")
        content = self.files.get(name)
        if content is None or fault == "status":
            handler.send_error(int(argument or 404))
            return
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and fault != "ignore-range" else 0
        if start >= len(content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.end_headers()
            return
        start += fault == "wrong-range"
        body = content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if fault != "no-length":
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        handler.wfile.write(body[: int(argument)] if fault in ("cut", "ignore-range") and argument else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/mirror/"
        yield state
        http.shutdown()
        thread.join()


def subset_archive(name: str, utterances: int = UTTERANCES, extra: tarfile.TarInfo | None = None) -> bytes:
    """A .tar.gz in LibriSpeech's own layout, with real FLAC files and a README."""
    import soundfile

    files = {"LibriSpeech/README.TXT": b"about", f"LibriSpeech/{name}/84/1/84-1.trans.txt": b""}
    for number in range(utterances):
        audio = io.BytesIO()
        soundfile.write(audio, tones("a ship", seed=number), 16_000, format="FLAC")
        files[f"LibriSpeech/{name}/84/1/84-1-{number:04d}.flac"] = audio.getvalue()
        files[f"LibriSpeech/{name}/84/1/84-1.trans.txt"] += f"84-1-{number:04d} A SHIP\n".encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if extra is not None:
            tar.addfile(extra, io.BytesIO(b"x" * extra.size))
    return packed.getvalue()


def offer(server: Server, name: str = "dev-clean", content: bytes | None = None) -> dict[str, Archive]:
    """Put a subset on the server; the table that describes it."""
    content = subset_archive(name) if content is None else content
    server.files[f"{name}.tar.gz"] = content
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {name: Archive(f"{name}.tar.gz", "12", len(content), checksum, UTTERANCES)}


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name.startswith("."))


def test_a_subset_arrives_verified_extracted_and_readable(server: Server, tmp_path: Path) -> None:
    table = offer(server)
    download(["dev-clean"], tmp_path / "data", server.url, table, HASTY)
    entries, bad = read_split(
        "dev", SplitConfig(folders=("dev-clean",)), CorpusLocation(tmp_path / "data", "LibriSpeech", tmp_path)
    )
    assert (len(entries), bad) == (UTTERANCES, [])
    assert (tmp_path / "data" / "LibriSpeech" / "README.TXT").read_text() == "about"
    assert leftovers(tmp_path / "data") == []


def test_what_is_whole_is_said_so_and_not_fetched_again(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = offer(server)
    download(["dev-clean"], tmp_path, server.url, table, HASTY)
    asked = len(server.requests)
    plan = download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert (plan.names, plan.present, plan.transfer_bytes) == ((), ("dev-clean",), 0)
    assert len(server.requests) == asked
    assert "already whole: dev-clean" in capsys.readouterr().err


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    table = offer(server)
    server.faults = ["cut 1000", "cut 500", "status 503", "cut 700"]
    download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert [span for _, span in server.requests] == [
        "",
        "bytes=1000-",
        "bytes=1500-",
        "bytes=1500-",
        "bytes=2200-",
    ]
    assert (tmp_path / "LibriSpeech" / "dev-clean").is_dir()


@pytest.mark.parametrize("fault", ["ignore-range", "ignore-range 300", "wrong-range", "no-length"])
def test_a_server_that_does_not_keep_to_the_range_still_yields_the_right_file(
    server: Server, tmp_path: Path, fault: str
) -> None:
    table = offer(server)
    server.faults = ["cut 1000", fault]
    download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert (tmp_path / "LibriSpeech" / "dev-clean").is_dir()


def test_an_interrupted_download_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    table = offer(server)
    server.faults = ["cut 1000"] + ["status 503"] * 9
    with pytest.raises(PipelineError, match="503, 3 times in a row.*same command again"):
        download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert leftovers(tmp_path) == [".downloading-dev-clean.tar.gz"]
    assert plan_download(["dev-clean"], tmp_path, table).transfer_bytes == table["dev-clean"].num_bytes - 1000
    server.faults.clear()
    server.requests.clear()
    download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert server.requests == [("dev-clean.tar.gz", "bytes=1000-")]


@pytest.mark.parametrize("too_many", [0, 5])
def test_a_partial_file_as_long_as_the_whole_or_longer_is_settled(
    server: Server, tmp_path: Path, too_many: int
) -> None:
    table = offer(server)
    content = server.files["dev-clean.tar.gz"]
    (tmp_path / ".downloading-dev-clean.tar.gz").write_bytes(content + b"x" * too_many)
    download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert (tmp_path / "LibriSpeech" / "dev-clean").is_dir()
    assert len(server.requests) == (2 if too_many else 1)


@pytest.mark.parametrize("faults", [["corrupt"], ["cut 1000", "corrupt"]])
def test_a_wrong_checksum_deletes_what_came_and_the_next_run_starts_afresh(
    server: Server, tmp_path: Path, faults: list[str]
) -> None:
    table = offer(server)
    server.faults = faults
    with pytest.raises(PipelineError, match="checksum.*deleted"):
        download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "LibriSpeech").exists()
    download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert server.requests[-1] == ("dev-clean.tar.gz", "")


def test_a_server_without_the_file_is_told_at_once(server: Server, tmp_path: Path) -> None:
    table = offer(server)
    server.files.clear()
    with pytest.raises(PipelineError, match="404"):
        download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_no_server_at_all_is_told_after_the_tries(tmp_path: Path, server: Server) -> None:
    table = offer(server)
    with pytest.raises(PipelineError, match="3 times in a row"):
        download(["dev-clean"], tmp_path, "http://127.0.0.1:9/", table, HASTY)


def test_it_refuses_before_the_first_byte_what_does_not_fit(server: Server, tmp_path: Path) -> None:
    huge = {"dev-clean": Archive("dev-clean.tar.gz", "12", 10**18, "sha256:", UTTERANCES)}
    with pytest.raises(PipelineError, match="GB free.*BERT2CTC_DATA"):
        download(["dev-clean"], tmp_path / "new", server.url, huge, HASTY)
    assert server.requests == []
    assert not (tmp_path / "new").exists()


def test_disk_is_counted_for_all_results_and_the_largest_archive(tmp_path: Path) -> None:
    plan = plan_download(["dev-clean", "train-clean-100", "dev-clean"], tmp_path)
    archives = [SUBSETS[name] for name in ("dev-clean", "train-clean-100")]
    assert plan.transfer_bytes == sum(archive.num_bytes for archive in archives)
    assert plan.needed_bytes >= plan.transfer_bytes + archives[1].num_bytes
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_whole_is_never_taken_for_the_subset(server: Server, tmp_path: Path) -> None:
    table = offer(server)
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "1"
    chapter.mkdir(parents=True)
    (chapter / "84-1-0000.flac").touch()
    with pytest.raises(PipelineError, match="holds 1 of 3 utterances.*move it away"):
        download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert server.requests == []
    assert (chapter / "84-1-0000.flac").exists()


def test_an_archive_that_lacks_utterances_is_not_put_in_place(server: Server, tmp_path: Path) -> None:
    table = offer(server, content=subset_archive("dev-clean", UTTERANCES - 1))
    with pytest.raises(PipelineError, match="2 utterances.*3 expected"):
        download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert not (tmp_path / "LibriSpeech" / "dev-clean").exists()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = 1 if kind == tarfile.REGTYPE else 0
    return made


@pytest.mark.parametrize(
    "extra",
    [
        member("../outside.txt"),
        member("LibriSpeech/dev-clean/../../../outside.txt"),
        member("LibriSpeech/dev-clean/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("LibriSpeech/dev-clean/link", tarfile.SYMTYPE, "84"),
        member("LibriSpeech/dev-clean/hard", tarfile.LNKTYPE, "../../../outside.txt"),
        member("LibriSpeech/dev-clean/device", tarfile.CHRTYPE),
        member("LibriSpeech/dev-clean/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda extra: f"{extra.name} {extra.linkname}",
)
def test_links_devices_and_paths_that_leave_are_refused(
    server: Server, tmp_path: Path, extra: tarfile.TarInfo
) -> None:
    table = offer(server, content=subset_archive("dev-clean", extra=extra))
    with pytest.raises(PipelineError, match="refused"):
        download(["dev-clean"], tmp_path / "data", server.url, table, HASTY)
    assert not (tmp_path / "data" / "LibriSpeech" / "dev-clean").exists()
    assert leftovers(tmp_path / "data") == [".downloading-dev-clean.tar.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_a_killed_extraction_left_is_cleared_away(server: Server, tmp_path: Path) -> None:
    table = offer(server)
    half = tmp_path / ".extracting-dev-clean" / "LibriSpeech" / "dev-clean" / "84" / "9"
    half.mkdir(parents=True)
    (half / "84-9-0000.flac").touch()
    download(["dev-clean"], tmp_path, server.url, table, HASTY)
    assert not (tmp_path / "LibriSpeech" / "dev-clean" / "84" / "9").exists()
    assert leftovers(tmp_path) == []


def test_two_processes_never_fetch_the_same_archive(server: Server, tmp_path: Path) -> None:
    table = offer(server)
    with (tmp_path / ".downloading-dev-clean.tar.gz").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(PipelineError, match="another process"):
            download(["dev-clean"], tmp_path, server.url, table, HASTY)
    download(["dev-clean"], tmp_path, server.url, table, HASTY)


def test_the_language_model_text_lands_as_one_file(server: Server, tmp_path: Path) -> None:
    content = b"any bytes will do"
    archive = Archive("lm.txt.gz", "11", 12, f"md5:{hashlib.md5(content).hexdigest()}")
    server.files["lm.txt.gz"] = content
    download([LM_TEXT], tmp_path, server.url, {LM_TEXT: archive}, HASTY)
    assert (tmp_path / "text" / "lm.txt.gz").read_bytes() == content
    assert leftovers(tmp_path) == []


def test_an_unknown_subset_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="'train-clean-10'.*train-clean-100"):
        plan_download(["train-clean-10"], tmp_path)


def test_our_table_agrees_with_torchaudios_checksums() -> None:
    from torchaudio.datasets import librispeech

    for url, checksum in librispeech._CHECKSUMS.items():
        archive = SUBSETS[url.rpartition("/")[2].removesuffix(".tar.gz")]
        assert archive.checksum == f"sha256:{checksum}"
    assert len(librispeech._CHECKSUMS) == len(SUBSETS)
    for archive in TABLE.values():
        kind, _, digest = archive.checksum.partition(":")
        assert len(digest) == 2 * hashlib.new(kind).digest_size
