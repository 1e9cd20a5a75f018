"""One grammar of names, and a name is checked before the work that it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from synthetic_cache import make, passages_named, plan_of

from pipeline.cli import main
from teacher_cache.build.request import BuildJob, BuildRequest
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.settings import is_name
from teacher_cache.sharing.archive import pack_cache
from teacher_cache.store import list_caches, write_name

NO_NAMES = ["a/b", "..", ".hidden", "-rf", "two words", "a\x1b[2Jb", "a\nb", "größe", "a" * 101, "\udc80"]


@given(st.text(max_size=120) | st.from_regex(r"[\w./-]{0,120}"))
def test_a_name_is_one_file_that_is_neither_hidden_nor_an_option(text: str) -> None:
    if is_name(text):
        assert Path(text).name == text == text.strip() and text.isprintable() and text.isascii()
        assert text[0] not in ".-" and len(text) <= 100 and not set(text) & set("/\\ ")


@pytest.mark.parametrize("name", [*NO_NAMES, ""])
def test_nothing_else_can_name_a_cache(tmp_path: Path, name: str) -> None:
    with pytest.raises(CacheError, match="cannot name a cache; a name is at most 100 letters"):
        write_name(tmp_path, name, "0" * 32)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", NO_NAMES)
@pytest.mark.parametrize("way", ["unpack", "pull"])
def test_what_arrives_under_no_name_is_not_even_read(tmp_path: Path, way: str, name: str) -> None:
    """The source does not exist: its own error would come first if anything was opened."""
    source = str(tmp_path / "none.tar") if way == "unpack" else f"file://{tmp_path}/none"
    root = tmp_path / "root"
    done = CliRunner().invoke(main, ["cache", way, source, f"--name={name}", "--cache-root", str(root)])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1, done.output
    assert "cannot name a cache" in done.stderr and not root.exists()


def test_a_sound_archive_is_published_under_its_name_alone(tmp_path: Path) -> None:
    cache = make(tmp_path, plan_of(passages_named(2)))
    pack_cache(cache, tmp_path / "a.tar")
    arguments = ["cache", "unpack", str(tmp_path / "a.tar"), "--cache-root", str(tmp_path / "root")]
    assert CliRunner().invoke(main, [*arguments, "--name", ".a"]).exit_code == 1
    assert list_caches(tmp_path / "root") == []
    assert CliRunner().invoke(main, [*arguments, "--name", "a"]).exit_code == 0
    assert [entry.names for entry in list_caches(tmp_path / "root")] == [("a",)]


def test_a_build_under_no_name_does_no_work(tmp_path: Path) -> None:
    """The teacher's folder does not exist: hashing it would be the first work."""
    request = BuildRequest(
        entries={"train": []},
        teacher_folder=tmp_path / "no teacher",
        cache_config=CacheConfig(),
        build_config=BuildConfig(),
        root=tmp_path / "root",
        name="my config",
        normaliser={},
    )
    with pytest.raises(CacheError, match="'my config' cannot name a cache"):
        BuildJob.of(request)
    assert list(tmp_path.iterdir()) == []
