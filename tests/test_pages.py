"""No page rots: what README and docs show is run or parsed, what they name exists, their links resolve."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from shown_commands import SHARED, PageFault, check_line
from synthetic_cache import make, passages_named, plan_of

import student
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.paths import Roots
from pipeline.report.settings_page import TABLES
from student.inference.recogniser import Recogniser
from teacher_cache.build.cluster import WORKER_ENVIRONMENT
from teacher_cache.passages import Passage
from teacher_cache.store import write_name

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWING = [ROOT / "README.md", ROOT / "docs" / "usage.md", ROOT / "docs" / "cluster.md"]
# What was is described in its own words: old names and settings stay there.
CURRENT = [page for page in PAGES if page.name not in ("CHANGELOG.md", "experiments.md")]
README_LINES = 130


class Block(NamedTuple):
    """A fenced block: its language, and its text."""

    language: str
    text: str


def blocks_of(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page, of these languages or of all."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(*one) for one in found if not languages or one[0] in languages]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans_of(page: Path) -> list[str]:
    """What a page's prose shows as code, whitespace made single."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose_of(page))]


def lines_of(page: Path) -> list[list[str]]:
    """The command lines of a page as words, comments gone."""
    text = "\n".join(block.text for block in blocks_of(page, "bash")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the README's own config in it."""
    (tmp_path / "my.toml").write_text(blocks_of(SHOWING[0], "toml")[0].text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for root in dataclasses.fields(Roots):
        monkeypatch.delenv(f"BERT2CTC_{root.name.upper()}", raising=False)
    return tmp_path


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.name)
def test_every_command_line_names_what_there_is(page: Path, own_folder: Path) -> None:
    lines = lines_of(page)
    assert len(lines) >= 5
    for words in lines:
        check_line(words)


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_every_command_in_prose_exists(page: Path, own_folder: Path) -> None:
    for span in spans_of(page):
        if span.startswith(("bert2ctc ", "make ")):
            check_line(shlex.split(span.replace("...", "")), is_whole=False)


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("bert2ctc cache biuld demo", "no such command"),
        ("bert2ctc train demo --run-folder a", "No such option"),
        ("bert2ctc train demo --gpus many", "not a valid integer"),
        ("bert2ctc train librispeech-10", "no config 'librispeech-10'"),
        ("bert2ctc train demo --set trainer.max_step=3", "did you mean 'max_steps'"),
        ("bert2ctc train demo --set objective.tail=bukket", "objective"),
        ("bert2ctc data download dev-claen", "no subset"),
        ("bert2ctc evaluate librispeech-100 --split heldout", "no split heldout"),
        ("bert2ctc evaluate", "Missing argument"),
        ("bert2ctc cache info librispeech-10", "no config whose cache"),
        ("bert2ctc experiment demo-famly", "no ladder"),
        ("make tran CONFIG=demo", "no such target"),
        ("make docs", "no such target"),
        ("make train CONFG=demo", "no such variable"),
        ("make train CONFIG=dmeo", "no config 'dmeo'"),
        ("make train SET='trainer.sede=2'", "did you mean 'seed'"),
        ("export BERT2CTC_DATE=a", "BERT2CTC_DATE"),
        ("export DASK_DISTRIBUTED__COMM__TLS__CA_FIEL=a", "no setting of Dask's"),
        ("export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=True", "not what a build sets"),
        ("dask ssh --nwokers 2 node1", "No such option"),
        ("dask shs node1", "no command"),
        ("curl https://example.org", "no program"),
    ],
)
def test_a_page_that_shows_what_is_not_so_fails(line: str, reported: str, own_folder: Path) -> None:
    with pytest.raises(PageFault, match=reported):
        check_line(shlex.split(line))


def test_what_usage_shows_of_caches_runs_and_downloads_is_run(own_folder: Path) -> None:
    plan = plan_of([*passages_named(20), Passage("", "the sea was calm", "")])
    replaced = {address: f"file://{own_folder}/prefix" for address in SHARED}
    replaced["FINGERPRINT"] = plan.manifest.fingerprint
    ran = []
    for words in lines_of(ROOT / "docs" / "usage.md"):
        group, command, rest = (*words[1:3], words[3:]) if words[0] == "bert2ctc" else ("", "", [])
        is_quick = group in ("cache", "runs") or "--dry-run" in rest and group == "data"
        needs_more = {"build", "diff", "RUN", "--recompute", "--plot", "UTTERANCE_ID"}  # teacher, run, corpus
        if not is_quick or needs_more & set(words):
            continue
        if not (own_folder / "caches" / plan.manifest.fingerprint).exists():
            make(own_folder / "caches", plan)
            write_name(own_folder / "caches", "librispeech-mini", plan.manifest.fingerprint)
        done = CliRunner().invoke(main, [replaced.get(word, word) for word in words[1:]])
        assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}{done.exception!r}"
        ran.append(command)
    shown = {"download", "ls", "info", "verify", "inspect", "rm", "gc", "pack", "unpack", "push", "pull"}
    assert set(ran) == shown


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_every_setting_in_prose_exists_and_takes_the_value_shown(page: Path) -> None:
    tables = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in TABLES.items()}
    for span in spans_of(page):
        for table, key in re.findall(rf"(?<![\w./-])({'|'.join(TABLES)})\.(\w+)", span):
            assert key in tables[table], f"{page.name} shows `{span}`: [{table}] has no key {key}"
        if re.fullmatch(r"(\w+\.\w+=\S+ ?)+", span):
            load_config("demo", shlex.split(span))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is_and_is_it(page: Path, tmp_path: Path) -> None:
    assert len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)) % 2 == 0
    for block in blocks_of(page):
        assert block.language in ("bash", "text", "python", "toml", "json"), f"{page.name}: {block}"
        if block.language == "json":
            json.loads(block.text)
        if block.language == "toml":
            (tmp_path / "own.toml").write_text(block.text, encoding="utf-8")
            load_config(str(tmp_path / "own.toml"))
        if block.language == "python":
            _check_python(block.text)


def _check_python(text: str) -> None:
    """The code parses, and calls our functions with arguments that they take."""
    signatures = {
        "student.load_model": inspect.signature(student.load_model),
        "model.transcribe": inspect.signature(Recogniser.transcribe.__get__(object())),
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and (signature := signatures.get(ast.unparse(node.func))):
            signature.bind(*node.args, **{str(word.arg): word.value for word in node.keywords})


PATH = re.compile(
    r"(?<![\w./-])((?:pipeline|teacher_cache|student|tests|benchmarks|docs)/[\w./*-]*|[\w-]+\.(?:py|sh|md))\b"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_and_module_of_the_repository_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in PATH.findall(text):
        assert _exists(path), f"{page.name} names {path}"
    if page in CURRENT:
        for name in re.findall(r"(?<![\w./-])((?:pipeline|student|teacher_cache)(?:\.[a-z_]\w*)+)", text):
            pkgutil.resolve_name(name)


def _exists(path: str) -> bool:
    path = path.rstrip("./")
    if "/" in path:
        return any(ROOT.glob(path))
    return any(any(folder.rglob(path)) for folder in (ROOT / "docs", *OWN)) or (ROOT / path).is_file()


OWN = [ROOT / name for name in ("pipeline", "teacher_cache", "student", "tests", "benchmarks")]


def test_a_path_that_is_gone_is_seen() -> None:
    shown = "see `student/trainer.py`, tests/test_none.py, none.py; student/config.py, cluster.py, docs/*.md."
    found = PATH.findall(shown)
    assert len(found) == 6 and [path for path in found if not _exists(path)] == [
        "student/trainer.py",
        "tests/test_none.py",
        "none.py",
    ]


LINK = re.compile(r"\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page: Path) -> None:
    for target in LINK.findall(prose_of(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists() and file.is_relative_to(ROOT), f"{page.name} links to {target}"
            assert not anchor or anchor in _anchors(file), f"{page.name} links to {target}"


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= README_LINES
    linked = {(ROOT / target).resolve() for target in LINK.findall(prose_of(readme))}
    assert {page for page in PAGES if page != readme} <= linked


def test_no_page_names_a_machine_s_own_place_or_a_registry() -> None:
    own = re.compile(
        r"/work/|/tmp/|/home/|/root/|/mnt/|\.library|pypi|pythonhosted|anaconda\.|npmjs|crates\.io", re.I
    )
    for page in [*PAGES, *sorted((ROOT / "docs" / "decisions").glob("*.md"))]:
        assert not own.findall(page.read_text(encoding="utf-8")), page.name


def test_the_cluster_page_shows_all_that_a_build_sets_for_its_workers() -> None:
    shown = {word for words in lines_of(SHOWING[2]) if words[0] == "export" for word in words[1:]}
    assert {f"{name}={value}" for name, value in WORKER_ENVIRONMENT.items()} <= shown


def test_the_architecture_page_shows_the_streets_that_the_contracts_hold() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    streets = {
        contract["containers"][0]: " ► ".join(contract["layers"])
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and "containers" in contract
    }
    text = " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())
    for package, street in streets.items():
        assert f"{package}: {street}" in text, f"docs/architecture.md: {package} is now {street}"
    assert len(streets) == 3


def test_the_architecture_page_shows_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [file.parent for package in OWN[:3] for file in package.rglob("__init__.py")]
    shown = [f"{room.relative_to(ROOT).as_posix()}/" for room in rooms if room.parent != ROOT]
    assert [room for room in shown if f"| `{room}`" not in page and f"`, `{room}`" not in page] == []
    assert len(shown) > 15


def test_every_extra_that_a_page_names_is_one() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for page in PAGES:
        named = set(re.findall(r"bert2ctc\[(\w+)\]", page.read_text(encoding="utf-8")))
        assert named <= set(extras["optional-dependencies"]), page.name
