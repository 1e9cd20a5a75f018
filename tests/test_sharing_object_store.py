from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from synthetic_cache import make, passages_named, plan_of

from pipeline.cli import main
from teacher_cache.errors import CacheError
from teacher_cache.sharing.file_list import contents_of
from teacher_cache.sharing.object_store import PushResult, pull_cache, push_cache
from teacher_cache.sharing.transport import file_system

PLAN = plan_of(passages_named(12))


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty prefix of each kind of store."""
    if request.param == "file":
        return f"file://{tmp_path}/store/prefix"
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/prefix"
    address: str = request.getfixturevalue("s3_url")
    return address


def pull(url: str, root: Path) -> Path:
    return pull_cache(url, root, lambda line: None).path


def sent(result: PushResult) -> tuple[int, int]:
    return result.objects_sent, result.objects_kept


def test_what_is_pushed_is_pulled_equal_and_a_second_push_sends_nothing(
    cache: Path, url: str, tmp_path: Path
) -> None:
    count = len(contents_of(cache).files)
    assert sent(push_cache(cache, url)) == (count, 0)
    assert contents_of(pull(url, tmp_path / "root")) == contents_of(cache)
    assert sent(push_cache(cache, url)) == (0, count)


def test_an_unfinished_push_is_no_cache_and_goes_on(cache: Path, url: str, tmp_path: Path) -> None:
    contents = contents_of(cache)
    half = contents.total_bytes + contents.total_bytes // 2  # every byte is hashed first, then sent
    done = 0

    def cut(number: int) -> None:
        nonlocal done
        done += number
        if done > half:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push_cache(cache, url, cut)
    with pytest.raises(CacheError, match=r"no manifest\.json with its contents\.json, so no cache"):
        pull(url, tmp_path / "root")
    result = push_cache(cache, url)
    assert result.objects_kept > 0 and result.objects_sent > 0
    assert result.bytes_sent < contents.total_bytes
    assert contents_of(pull(url, tmp_path / "root")) == contents_of(cache)


def test_the_manifest_is_sent_last(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, prefix = file_system(f"memory://{uuid.uuid4().hex}")
    order: list[str] = []
    put = type(system).put_file

    def noted(self: Any, local: str, remote: str, **options: Any) -> Any:
        order.append(remote.removeprefix(f"{prefix}/"))
        return put(self, local, remote, **options)

    monkeypatch.setattr(type(system), "put_file", noted)
    push_cache(cache, f"memory://{prefix}")
    assert order[-1] == "manifest.json" and sorted(order) == sorted(contents_of(cache).files)


def test_a_damaged_object_of_equal_size_is_refused_and_sent_again(
    cache: Path, url: str, tmp_path: Path
) -> None:
    push_cache(cache, url)
    system, prefix = file_system(url)
    for name in ("row/top_id/c/0/0", "zarr.json"):
        data = bytearray(system.cat_file(f"{prefix}/{name}"))
        data[len(data) // 2] ^= 4
        system.pipe_file(f"{prefix}/{name}", bytes(data))
        root = tmp_path / "root"
        with pytest.raises(CacheError, match="is damaged .*nothing was published"):
            pull(url, root)
        assert {path.name for path in root.iterdir()} == {".building"}
        assert not (root / ".building" / f"{cache.name}.arriving" / name).exists()
        assert push_cache(cache, url).objects_sent == 1
    system.rm_file(f"{prefix}/row/gold_id/c/0")
    with pytest.raises(CacheError, match="gold_id/c/0: cannot be re(ached|ad)"):
        pull(url, tmp_path / "another root")
    assert push_cache(cache, url).objects_sent == 1
    assert pull(url, tmp_path / "root").name == cache.name


def test_a_prefix_of_another_cache_is_left_alone(cache: Path, url: str, tmp_path: Path) -> None:
    other = make(tmp_path / "other", plan_of(passages_named(3, seed=5)))
    push_cache(other, url)
    with pytest.raises(CacheError, match=f"holds cache {other.name}, not {cache.name}; push to a prefix"):
        push_cache(cache, url)
    assert contents_of(pull(url, tmp_path / "root")) == contents_of(other)


def test_a_missing_driver_is_one_line_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # what an absent package looks like to `import`
    known = sys.modules["fsspec.registry"]._registry  # another test may have met the driver already
    for protocol in ("s3", "s3a"):
        monkeypatch.delitem(known, protocol, raising=False)
    done = CliRunner().invoke(main, ["cache", "pull", "s3://bucket/x", "--cache-root", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith("install it with `pip install 'bert2ctc[s3]'`")


def test_push_and_pull_are_commands(cache: Path, tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"

    def run(*arguments: str, root: Path) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["cache", *arguments, "--cache-root", str(root), "--json"])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    assert run("push", cache.name, url, root=cache.parent)["objects_kept"] == 0
    assert run("pull", url, "--name", "demo", root=tmp_path)["is_new"] is True
    assert run("pull", url, root=tmp_path)["is_new"] is False
    assert run("verify", "demo", root=tmp_path)["faults"] == []
