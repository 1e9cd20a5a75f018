"""`cache pull` over S3 and plain HTTP: whatever breaks it, what arrived whole is not fetched again."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from http_folder import HttpFolder, served
from synthetic_cache import make, passages_named, plan_of

from pipeline.cli import main
from teacher_cache.errors import CacheError
from teacher_cache.sharing.archive import pack_cache
from teacher_cache.sharing.file_list import contents_of
from teacher_cache.sharing.object_store import pull_cache, push_cache
from teacher_cache.sharing.transport import file_system
from teacher_cache.store import collect_garbage

PLAN = plan_of(passages_named(12))
AS_AT_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit that it is ignored
from pipeline.cli import main
main()
"""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def http(cache: Path, tmp_path: Path) -> Iterator[HttpFolder]:
    """A web server with the cache pushed to its folder /a/b."""
    push_cache(cache, f"file://{tmp_path}/www/a/b")
    with served(tmp_path / "www") as server:
        yield server


@pytest.fixture(params=["file", "s3", "http"])
def store(request: pytest.FixtureRequest, cache: Path) -> tuple[str, str]:
    """Where a cache is pulled from, and where its objects can be taken away: one place, two addresses."""
    if request.param == "s3":
        url = request.getfixturevalue("s3_url")
        push_cache(cache, url)
        return url, url
    server = request.getfixturevalue("http")
    folder = f"file://{server.folder}/a/b"
    return (folder if request.param == "file" else f"{server.url}/a/b"), folder


def command(*arguments: str, root: Path) -> Result:
    return CliRunner().invoke(main, ["cache", *arguments, "--cache-root", str(root)])


def error_of(result: Result) -> str:
    """The one line of a refused command."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.exit_code == 1 and len(lines) == 1, result.stderr
    return lines[0]


def arrived(root: Path, cache: Path) -> list[str]:
    """Names of the objects that an unfinished pull left."""
    folder = root / ".building" / f"{cache.name}.arriving"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def is_clean(root: Path) -> bool:
    return not root.exists() or {path.name for path in root.rglob("*")} <= {".building", ".guard"}


@contextmanager
def cut_after(num_bytes: int) -> Iterator[object]:
    """A count that is interrupted as by Ctrl-C."""
    done = 0

    def count(number: int) -> None:
        nonlocal done
        done += number
        if done > num_bytes:
            raise KeyboardInterrupt

    yield count


def test_an_interrupted_pull_fetches_only_what_is_missing_or_damaged(
    store: tuple[str, str], cache: Path, tmp_path: Path
) -> None:
    url, written = store
    root, contents, said = tmp_path / "root", contents_of(cache), []
    half = contents.total_bytes // 2
    with pytest.raises(KeyboardInterrupt):
        pull_cache(url, root, said.append, lambda total: cut_after(half))  # type: ignore[arg-type]
    whole = arrived(root, cache)
    assert 3 < len(whole) < len(contents.files)
    assert f"{len(whole)} of {len(contents.files)} objects" in said[-1] and "are here and stay" in said[-1]

    flipped, shortened, *intact = whole
    folder = root / ".building" / f"{cache.name}.arriving"
    (folder / flipped).write_bytes(bytes([(data := (folder / flipped).read_bytes())[0] ^ 1]) + data[1:])
    (folder / shortened).write_bytes((folder / shortened).read_bytes()[:-1])
    (folder / "row" / "stray.partial").write_bytes(b"half")
    system, prefix = file_system(written)
    for name in intact:
        if name != "manifest.json":
            system.rm_file(f"{prefix}/{name}")  # whoever asks for it again fails
    asked: list[int] = []
    arrival = pull_cache(url, root, said.append, lambda total: asked.append(total) or cut_after(total))  # type: ignore
    assert asked == [contents.total_bytes - sum(contents.files[name].bytes for name in intact)]
    assert f"{len(intact)} of {len(contents.files)} objects" in said[-1] and "are kept" in said[-1]
    assert arrival.is_new and contents_of(arrival.path) == contents
    assert {path.name for path in arrival.path.rglob("*.partial")} == set()
    assert collect_garbage(root, delete=False) == []


@pytest.mark.parametrize("fault", ["cut", "corrupt", "503"])
def test_a_broken_transfer_is_one_line_and_the_next_pull_goes_on(
    http: HttpFolder, cache: Path, tmp_path: Path, fault: str
) -> None:
    root, url, names = tmp_path / "root", f"{http.url}/a/b", list(contents_of(cache).files)
    broken = "row/top_logprob/c/0/0"
    http.faults[f"a/b/{broken}"] = fault
    reported = error_of(command("pull", url, root=root))
    assert f"{url}/{broken}: " in reported
    assert {"cut": "cannot be reached", "corrupt": "is damaged", "503": "503"}[fault] in reported
    before = names[: names.index(broken)]
    assert arrived(root, cache) == before and not (root / cache.name).exists()
    http.requests.clear()
    done = command("pull", url, root=root)
    assert done.exit_code == 0 and f"{len(before)} of {len(names)} objects" in done.stderr
    fetched = [name.removeprefix("a/b/") for name in http.requests]
    assert fetched == ["manifest.json", "contents.json", *names[names.index(broken) :]]
    assert contents_of(root / cache.name) == contents_of(cache) and not list((root / ".building").glob("*"))


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_pull_goes_on_and_while_it_runs_a_second_one_is_refused(
    http: HttpFolder, cache: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    root, url, names = tmp_path / "root", f"{http.url}/a/b", list(contents_of(cache).files)
    last = "row/tail_logprob/c/0/0"
    http.faults[f"a/b/{last}"] = "stall"
    first = [sys.executable, "-c", AS_AT_A_TERMINAL, "cache", "pull", url, "--cache-root", str(root)]
    with subprocess.Popen(first, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert http.stalled.wait(240)
            reported = error_of(command("pull", url, root=root))
            assert (
                f"{cache.name}.lock is held by process {process.pid}" in reported
                and "wait for it" in reported
            )
            assert collect_garbage(root, delete=True) == []  # a living pull is no leftover
        finally:
            process.send_signal(ending)
        stderr = process.communicate(timeout=60)[1]
    before = names[: names.index(last)]
    if ending == signal.SIGINT:
        assert f"{len(before)} of {len(names)} objects" in stderr and "are here and stay" in stderr
        assert "interrupted; run the same command again to go on" in stderr.splitlines()[-1]
    assert [name for name in arrived(root, cache) if not name.endswith(".partial")] == before
    assert root / ".building" / f"{cache.name}.arriving" in collect_garbage(root, delete=False)
    http.requests.clear()
    assert command("pull", url, root=root).exit_code == 0
    assert [name.removeprefix("a/b/") for name in http.requests[2:]] == names[names.index(last) :]
    assert contents_of(root / cache.name) == contents_of(cache)


def test_what_an_unfinished_pull_left_is_garbage(http: HttpFolder, cache: Path, tmp_path: Path) -> None:
    http.faults["a/b/zarr.json"] = "cut"
    error_of(command("pull", f"{http.url}/a/b", root=tmp_path / "root"))
    listed = command("gc", root=tmp_path / "root")
    assert f"leftover {tmp_path}/root/.building/{cache.name}.arriving" in listed.stdout
    assert command("gc", "--yes", root=tmp_path / "root").exit_code == 0
    assert is_clean(tmp_path / "root")


def test_nothing_is_asked_for_but_listed_files_and_a_signature_goes_with_each(
    http: HttpFolder, cache: Path, tmp_path: Path
) -> None:
    query = "sp=r&sig=a%2Fsecret%3D"
    done = command("pull", f"{http.url}/a/b/?{query}", "--name", "demo", root=tmp_path / "root")
    assert done.exit_code == 0, done.stderr
    expected = ["manifest.json", "contents.json", *contents_of(cache).files]
    assert http.requests == [f"a/b/{name}" for name in expected] and http.queries == {query}
    assert command("verify", "demo", root=tmp_path / "root").exit_code == 0
    http.faults["a/b/manifest.json"] = "403"
    reported = error_of(command("pull", f"{http.url}/a/b?{query}", root=tmp_path / "other"))
    assert "403" in reported and "secret" not in reported


def test_what_is_no_cache_or_cannot_be_reached_is_one_line(http: HttpFolder, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert "so no cache" in error_of(command("pull", f"{http.url}/elsewhere", root=root))
    assert "cannot be reached" in error_of(command("pull", "http://127.0.0.1:9/a/b", root=root))
    (http.folder / "a/b/row/gold_id/c/0").unlink()
    assert re.search(
        r"row/gold_id/c/0: cannot be reached \(404", error_of(command("pull", f"{http.url}/a/b", root=root))
    )


def test_an_unsound_cache_that_came_as_it_was_listed_leaves_nothing(tmp_path: Path) -> None:
    bad = make(tmp_path / "bad", plan_of(passages_named(12)))
    (bad / "row/gold_id/c/0").write_bytes((bad / "row/gold_id/c/0").read_bytes()[:-5])
    push_cache(bad, f"file://{tmp_path}/www")
    with served(tmp_path / "www") as http:
        reported = error_of(command("pull", http.url, root=tmp_path / "root"))
    assert "shard 0: " in reported and "ask for a sound copy" in reported
    assert is_clean(tmp_path / "root")


def test_nothing_is_pushed_over_http(http: HttpFolder, cache: Path) -> None:
    reported = error_of(command("push", cache.name, f"{http.url}/new", root=cache.parent))
    assert "nothing can be sent over HTTP; push to s3://BUCKET/PREFIX, or to file:///FOLDER" in reported
    with pytest.raises(CacheError, match="nothing can be sent"):
        push_cache(cache, f"{http.url}/new")
    assert http.requests == []


def test_without_its_driver_http_is_one_line_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)  # what an absent package looks like to `import`
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    for protocol in ("http", "https"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    reported = error_of(command("pull", "https://host/a", root=tmp_path))
    assert reported.endswith("HTTP needs one more package; install it with `pip install 'bert2ctc[http]'`")


@pytest.mark.parametrize(
    ("fault", "reason"), [("corrupt", "damaged"), ("cut", "in the middle"), ("404", "404")]
)
def test_an_archive_over_http_comes_whole_or_not_at_all(
    cache: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    pack_cache(cache, tmp_path / "cache.tar")
    with served(tmp_path) as http:
        http.faults["cache.tar"] = fault
        reported = error_of(command("unpack", f"{http.url}/cache.tar", root=tmp_path / "root"))
        assert reason in reported and is_clean(tmp_path / "root")
        assert command("unpack", f"{http.url}/cache.tar", root=tmp_path / "root").exit_code == 0
    assert contents_of(tmp_path / "root" / cache.name) == contents_of(cache)
