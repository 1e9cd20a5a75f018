"""Sizes that no archive can have: told in one line before anything is reserved or written."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_cache import make, passages_named, plan_of

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.sharing.archive import unpack_archive
from teacher_cache.sharing.file_list import CONTENTS, Contents, contents_of
from teacher_cache.sharing.transport import opened


@pytest.mark.parametrize("size", [-1, -(2**70), 8 << 30, 2**70])
def test_a_head_of_a_size_that_no_file_has_is_no_packed_cache(tmp_path: Path, size: int) -> None:
    member = tarfile.TarInfo(CONTENTS)
    member.size = size
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(512))
    with pytest.raises(CacheError, match="no packed cache"), opened(str(tmp_path / "a.tar")) as incoming:
        unpack_archive(incoming, "it", tmp_path / "root", lambda line: None)


@pytest.mark.parametrize("size", [-1, 8 << 30, 10**30])
def test_a_list_with_a_size_that_no_file_has_is_refused(tmp_path: Path, size: int) -> None:
    contents = contents_of(make(tmp_path, plan_of(passages_named(3), config=CacheConfig(top_k=8))))
    assert Contents.from_bytes(contents.to_bytes(), "it") == contents
    facts = replace(contents.files["manifest.json"], bytes=size)
    forged = replace(contents, files={**contents.files, "manifest.json": facts})
    with pytest.raises(CacheError, match="gives 'manifest.json' no size and sha256"):
        Contents.from_bytes(forged.to_bytes(), "it")
