from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic_cache import SyntheticTeacher, make, plan_of

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.paths import Roots, prepared_folder, roots_from
from pipeline.report.inspect_page import inspection_page
from pipeline.report.inspect_table import inspection_lines
from student.data.manifest import Utterance, write_manifest
from teacher_cache.common.terminal import printable
from teacher_cache.config import CacheConfig
from teacher_cache.passages import Passage, passages_of
from teacher_cache.store import TeacherCacheReader, read_manifest, write_name
from teacher_cache.store.inspection import Candidate, InspectedPassage, InspectedToken, inspect_passages

CONTEXT = CacheConfig(top_k=24, context="chapter", context_words=10)
TEACHER = SyntheticTeacher()


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """A cache named "demo" with context, and the demo config's manifests beside it."""
    made = roots_from({name: tmp_path / name for name in ("runs", "data", "cache")}, {})
    prepared = prepared_folder(load_config("demo"), made)
    passages: list[Passage] = []
    for split in load_config("demo").data.splits:
        entries = [
            Utterance(f"{split}-{n}", "a.flac", f"the {split} cat {n}", 1.0, chapter="c", position=n)
            for n in range(3)
        ]
        write_manifest(prepared / f"{split}.jsonl", entries)
        if split == "train":
            passages = [*passages_of(entries, CONTEXT), Passage("", "alone here", "")]
    write_name(made.cache, "demo", make(made.cache, plan_of(passages, config=CONTEXT)).name)
    return made


def run(roots: Roots, *arguments: str, **environment: str) -> Any:
    folders = [f"--{name}-root={getattr(roots, name)}" for name in ("cache", "data", "runs")]
    return CliRunner().invoke(main, ["cache", "inspect", *arguments, *folders], env=environment)


def test_figures_are_the_teachers_own(roots: Roots) -> None:
    done = run(roots, "demo", "train-1", "--top", "4", "--json")
    assert done.exit_code == 0, done.stderr
    (shown,) = json.loads(done.stdout)["utterances"]
    passage = Passage(**shown["passage"])
    assert passage == Passage("the train cat 0", "the train cat 1", "the train cat 2")
    logprobs, gold = TEACHER.logprobs(passage), TEACHER.gold(passage)
    assert len(shown["tokens"]) == 4
    for token, row, piece in zip(shown["tokens"], logprobs, gold, strict=True):
        assert token["piece"] == f"piece{piece}é"
        assert token["probability"] == pytest.approx(np.exp(row[piece]), rel=1e-3)
        ranked = np.argsort(-row[TEACHER.num_special :], kind="stable") + TEACHER.num_special
        rank = ranked.tolist().index(piece) + 1 if piece in ranked else 999
        assert token["rank"] == (rank if rank <= 24 else None)
        assert [one["piece"] for one in token["candidates"]] == [f"piece{number}é" for number in ranked[:4]]
        kept = sum(one["probability"] for one in token["candidates"])
        assert kept == pytest.approx(np.exp(row[ranked[:4]]).sum(), rel=1e-3)
        assert token["other_probability"] == pytest.approx(1 - kept, abs=1e-6)


def test_what_is_absent_is_refused_in_one_line(roots: Roots) -> None:
    dev = next(split for split in load_config("demo").data.splits if split != "train")
    for arguments, reported in (
        (["demo", f"{dev}-0"], f"holds no labels for {dev}-0"),
        (["demo", "--text", "never said"], 'holds no labels for "never said"'),
        (["demo", "nobody"], "no utterance nobody in the manifests of config 'demo'"),
        (["nothing", "train-0"], "no cache 'nothing'"),
    ):
        done = run(roots, *arguments)
        assert done.exit_code == 1 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1 and reported in done.stderr
    assert run(roots, "demo").exit_code == 2
    assert run(roots, "demo", "--text", " alone  here ").exit_code == 0


def test_colour_is_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    def drawn(**options: Any) -> str:
        console = Console(force_terminal=True, width=100, color_system="standard", **options)
        with console.capture() as capture:
            for line in inspection_lines([HOSTILE]):
                console.print(line)
        return capture.get()

    assert "\x1b[1;31m" in drawn()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in drawn()


HOSTILE = InspectedPassage(
    "<script>1</script>",
    Passage('"><img src=x>', "a & b", ""),
    (InspectedToken("\x1b]0;x\x07[red]", 1e-5, None, (Candidate("</td><b>", 0.7, False),), 0.3),),
)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_is_whole_escaped_and_needs_nothing_else(roots: Roots, tmp_path: Path) -> None:
    manifest = read_manifest(next(path for path in roots.cache.iterdir() if len(path.name) == 32))
    page = inspection_page([HOSTILE], manifest)
    read = _Tags()
    read.feed(page)
    assert not read.tags & {"script", "img", "b", "link", "iframe"}
    assert not read.attributes & {"src", "href", "onerror", "style"} and "http" not in page.replace(
        "http-equiv", ""
    )
    assert "<script>1</script>" in read.text and "</td><b>" in read.text and "\x1b" not in page
    file = tmp_path / "page.html"
    assert run(roots, "demo", "train-0", "--html", str(file)).exit_code == 0
    assert "the train cat 1" in file.read_text(encoding="utf-8")
    done = run(roots, "demo", "train-0", "--html", str(file))
    assert done.exit_code == 1 and "exists; name another file" in done.stderr


def test_a_piece_cannot_steer_the_terminal() -> None:
    assert printable("\x1b[2J\u202eabcé") == "\\x1b[2J\\u202eabcé"


WATCH = """
import os, sys
from pathlib import Path
root, wrote = sys.argv[1], []
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod",
           "os.truncate", "os.utime", "shutil.rmtree"}
def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith(root):
        flags = arguments[2] or 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            wrote.append(f"{event} {arguments[0]}")
    elif event in CHANGES and any(str(argument).startswith(root) for argument in arguments):
        wrote.append(f"{event} {arguments}")
sys.addaudithook(watch)
from teacher_cache.store.inspection import inspect_passages
from teacher_cache.passages import Passage
from teacher_cache.store import TeacherCacheReader, describe, list_caches, resolve
from teacher_cache.store.verify import verify_cache
passage = Passage("", "alone here", "")
path = resolve(Path(root), "demo")
assert verify_cache(path) == [] and describe(path) and list_caches(Path(root))
for backend in ("memory", "chunks"):
    assert len(TeacherCacheReader(path, backend=backend).targets(passage.digest).gold_ids) == 2
assert inspect_passages(path, {"x": passage}, 3)
if sys.argv[2:]:
    Path(root, "planted").write_text("seen")
print(*wrote, sep="\\n")
"""


def watched(root: Path, *planted: str) -> str:
    command = [sys.executable, "-c", WATCH, str(root), *planted]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_cache_on_a_read_only_mount_is_read_verified_and_inspected(roots: Roots) -> None:
    """Root ignores modes, so every call that would write is watched instead of refused."""

    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in roots.cache.rglob("*")}

    before = state()
    assert watched(roots.cache) == ""
    assert state() == before
    assert "planted" in watched(roots.cache, "plant")  # or the watch proves nothing


def test_inspection_and_reader_give_one_answer(roots: Roots) -> None:
    path = next(path for path in roots.cache.iterdir() if len(path.name) == 32)
    passage = Passage("", "alone here", "")
    (shown,) = inspect_passages(path, {"x": passage}, 24)
    reader = TeacherCacheReader(path)
    targets = reader.targets(passage.digest)
    read = [[one.probability for one in token.candidates] for token in shown.tokens]
    np.testing.assert_allclose(np.exp(targets.top_logprobs), read, rtol=1e-6)
    assert [token.piece for token in shown.tokens] == [reader.vocabulary[gold] for gold in targets.gold_ids]
