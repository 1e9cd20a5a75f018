from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic_cache import make, passages_named, plan_of

from pipeline.cli import main
from teacher_cache.errors import CacheError
from teacher_cache.sharing.archive import pack_cache, unpack_archive
from teacher_cache.sharing.file_list import contents_of
from teacher_cache.sharing.receive import ReceivedCache
from teacher_cache.sharing.transport import Incoming, opened
from teacher_cache.store import collect_garbage
from teacher_cache.store.verify import verify_cache

PLAN = plan_of(passages_named(12))


@pytest.fixture(scope="module")
def archive(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_cache(cache, tmp_path_factory.mktemp("packed") / "cache.tar").path


def unpack(source: str, root: Path) -> ReceivedCache:
    with opened(source) as incoming:
        return unpack_archive(incoming, source, root, lambda line: None)


def unpack_bytes(data: bytes, root: Path) -> ReceivedCache:
    return unpack_archive(Incoming(io.BytesIO(data), "it"), "it", root, lambda line: None)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def is_untouched(root: Path) -> bool:
    """Nothing is published, and no leftover but the guard of the locks."""
    return {path.name for path in root.rglob("*")} <= {".building", ".guard"}


def test_what_is_packed_comes_back_byte_for_byte(cache: Path, archive: Path, tmp_path: Path) -> None:
    arrival = unpack(str(archive), tmp_path)
    assert arrival == ReceivedCache(tmp_path / cache.name, cache.name, is_new=True)
    assert tree(arrival.path) == tree(cache)
    assert verify_cache(arrival.path) == []
    assert not list((tmp_path / ".building").glob("*"))


def test_equal_caches_make_equal_archives_that_any_tar_reads(
    cache: Path, archive: Path, tmp_path: Path
) -> None:
    packed = pack_cache(cache, tmp_path / "again.tar")
    assert packed.path.read_bytes() == archive.read_bytes()
    assert packed.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert packed.bytes == archive.stat().st_size
    with tarfile.open(archive) as read:
        names = read.getnames()
        assert names[0] == "contents.json" and names[1:] == sorted(names[1:])
        assert {(member.mtime, member.uid, member.gid) for member in read} == {(0, 0, 0)}
        listed = json.load(read.extractfile("contents.json"))["files"]  # type: ignore[arg-type]
        for name, facts in listed.items():
            data = read.extractfile(f"{cache.name}/{name}").read()  # type: ignore[union-attr]
            assert hashlib.sha256(data).hexdigest() == facts["sha256"]


def test_no_file_is_overwritten_and_no_half_file_stays(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(CacheError, match="mine exists; name another file"):
        pack_cache(cache, tmp_path / "mine")

    def cut(number: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        pack_cache(cache, tmp_path / "cut.tar", cut)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_published_fingerprint_is_left_alone(cache: Path, archive: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    said: list[str] = []
    with opened(str(archive)) as incoming:
        arrival = unpack_archive(incoming, "it", cache.parent, said.append)
    assert not arrival.is_new and "published already" in said[0]
    assert before == {path: path.stat().st_mtime_ns for path in cache.rglob("*")}


def test_every_flipped_byte_is_found_and_nothing_is_published(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    draw = random.Random(1)
    ends = [*range(0, 600, 150), len(whole) - 1, len(whole) - 1024]
    for index in [*ends, *(draw.randrange(len(whole)) for _ in range(12))]:
        damaged = bytearray(whole)
        damaged[index] ^= 1 << draw.randrange(8)
        with pytest.raises(CacheError):
            unpack_bytes(bytes(damaged), tmp_path)
        assert is_untouched(tmp_path), index


def test_a_cut_or_lengthened_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    for length in (0, 100, 512, 3000, len(whole) // 2, len(whole) - 1):
        with pytest.raises(CacheError, match="ends after .* in the middle; nothing was published"):
            unpack_bytes(whole[:length], tmp_path)
        assert is_untouched(tmp_path)
    with pytest.raises(CacheError, match="damaged behind its end"):
        unpack_bytes(whole + b"x", tmp_path)
    assert is_untouched(tmp_path)


def planted(archive: Path, change: str) -> bytes:
    """The archive with one thing that no cache holds, written by an ordinary tar library."""
    target = io.BytesIO()
    with (
        tarfile.open(archive) as read,
        tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as out,
    ):
        for member in read:
            data = read.extractfile(member).read()  # type: ignore[union-attr]
            if member.name == "contents.json" and change.startswith("lists "):
                listed = json.loads(data)
                listed["files"][change.removeprefix("lists ")] = {"bytes": 1, "sha256": "0" * 64}
                data = json.dumps(listed, sort_keys=True, separators=(",", ":")).encode() + b"\n"
                member.size = len(data)
            if member.name.endswith("/manifest.json"):
                if change in ("link", "device"):
                    member.type = tarfile.SYMTYPE if change == "link" else tarfile.CHRTYPE
                    member.linkname, member.size, data = "/etc/passwd", 0, b""
                elif change.startswith("named "):
                    member.name = change.removeprefix("named ")
                elif change == "twice":
                    out.addfile(member, io.BytesIO(data))
            out.addfile(member, io.BytesIO(data))
    return target.getvalue()


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ("link", "a link, folder or device"),
        ("device", "a link, folder or device"),
        ("named ../escaped", "holds '../escaped' of"),
        ("named /tmp/escaped", "holds '/tmp/escaped' of"),
        ("twice", "/manifest.json' of .* where its list has"),
        ("lists ../escaped", "lists '../escaped', which is no file of a cache"),
        ("lists /etc/cron.d/x", "lists '/etc/cron.d/x', which is no file of a cache"),
        ("lists row/../../x", "lists 'row/../../x', which is no file"),
        ("lists .zgroup", "lists '.zgroup', which is no file"),
        ("lists row/extra/c/9", "holds .* where its list has .*row/extra/c/9"),
    ],
)
def test_an_archive_that_reaches_further_is_refused(
    archive: Path, tmp_path: Path, change: str, reported: str
) -> None:
    root = tmp_path / "deep" / "root"
    with pytest.raises(CacheError, match=reported):
        unpack_bytes(planted(archive, change), root)
    assert not root.exists() or is_untouched(root)
    assert not (tmp_path / "deep" / "escaped").exists()


def test_an_intact_archive_of_an_unsound_cache_is_not_published(cache: Path, tmp_path: Path) -> None:
    """Checksums prove transport alone; whoever packs by hand is caught by the laws of rows."""
    bad = make(tmp_path / "bad", plan_of(passages_named(12)))
    first, second = bad / "receipts/0.json", bad / "row/gold_id/c/0"
    second.write_bytes(second.read_bytes()[:-5])
    assert first.is_file()
    packed = pack_cache(bad, tmp_path / "bad.tar")
    root = tmp_path / "root"
    with pytest.raises(CacheError, match=r"shard 0: .*nothing was published; ask for a sound copy"):
        unpack(str(packed.path), root)
    assert is_untouched(root)
    done = CliRunner().invoke(main, ["cache", "pack", str(bad), str(tmp_path / "no.tar")])
    assert done.exit_code == 1 and "it cannot be shared" in done.stderr
    assert not (tmp_path / "no.tar").exists()


def test_a_killed_unpack_is_listed_as_garbage(cache: Path, tmp_path: Path) -> None:
    left = tmp_path / ".building" / f"{cache.name}.123.arriving"
    left.mkdir(parents=True)
    assert collect_garbage(tmp_path, delete=True) == [left]
    assert not left.exists()


class _Cut(SimpleHTTPRequestHandler):
    """Serves a folder; below /cut/ it promises the whole and sends half."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        data = (Path(self.directory) / self.path.removeprefix("/cut/").partition("?")[0]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True
        return None


@pytest.fixture
def server(archive: Path) -> Iterator[str]:
    handler = partial(_Cut, directory=str(archive.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_an_archive_comes_over_http_and_a_cut_one_is_told_in_one_line(
    server: str, cache: Path, tmp_path: Path
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(main, ["cache", *arguments, "--cache-root", str(tmp_path)])
        return done.exit_code, done.stdout, done.stderr

    code, _, reported = run("unpack", f"{server}/cut/cache.tar?signature=secret")
    assert code == 1 and is_untouched(tmp_path)
    told_lines = [line for line in reported.splitlines() if "Error" in line]
    assert len(told_lines) == 1 and "nothing was published" in reported and "secret" not in reported
    code, _, reported = run("unpack", f"{server}/nothing.tar")
    assert code == 1 and "404" in reported and is_untouched(tmp_path)
    code, out, _ = run("unpack", f"{server}/cache.tar", "--name", "demo", "--json")
    assert code == 0 and json.loads(out)["is_new"] is True
    assert run("info", "demo", "--json")[0] == 0
    assert contents_of(tmp_path / cache.name) == contents_of(cache)
