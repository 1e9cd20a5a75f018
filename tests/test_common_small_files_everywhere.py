"""Whatever the packages read of small files goes through the one reader: every reader meets every fault."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from forgery import as_version_0_1
from synthetic_cache import make, passages_named, plan_of
from test_common_small_files import make_socket

from pipeline.comparison.run_facts import evaluations_of, read_run
from pipeline.comparison.words import read_homophones
from pipeline.config import SplitConfig, load_config
from pipeline.corpus.prepare import _reuse
from pipeline.corpus.prepared import require_unchanged
from pipeline.corpus.read import CorpusLocation, read_split
from pipeline.demo.corpus import _existing
from pipeline.demo.sites import read_sites
from pipeline.error_rates.transcripts import read_trn
from pipeline.errors import PipelineError
from pipeline.experiments.ladder import load_ladder
from pipeline.experiments.run import _known_seconds
from pipeline.language_model.arpa import read_arpa
from pipeline.paths import roots_from
from pipeline.run_record import read_record
from student.data.manifest import read_manifest
from student.data.units import Units
from student.errors import StudentError
from student.inference.export import read_exported
from student.inference.recogniser import Recogniser
from student.inference.safetensors import read_safetensors
from student.inference.tuning_file import read_tuning
from student.training.checkpoint import load_checkpoint
from student.training.run_cache import _noted
from student.training.run_folder import best_step, is_running, mark_best, metrics, read_result
from teacher_cache.build.plan import BuildPlan
from teacher_cache.common.lock import read_owner
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store import read_manifest as read_cache_manifest
from teacher_cache.store import resolve, write_name
from teacher_cache.store.checked_cache import CheckedCache
from teacher_cache.store.layout import Layout
from teacher_cache.store.manifest import read_receipts
from teacher_cache.store.metadata import metadata_faults
from teacher_cache.store.old_receipts import column_digests
from teacher_cache.teacher.folder import read_note
from teacher_cache.teacher.identity import model_family
from teacher_cache.teacher_training.vocabulary import make_tokenizer

ROOT = Path(__file__).parents[1]
Errors = type[Exception] | tuple[type[Exception], ...]
Reader = tuple[str, Callable[[Path], object], Errors]


def beside(path: Path, *names: str) -> Path:
    """The folder of a file, where these others lie too."""
    for name in names:
        (path.parent / name).touch()
    return path.parent


def listed(path: Path) -> object:
    """An id list; what is wrong with a line of it is an item, so that only the file's own faults raise."""
    (path.parent / "corpus").mkdir()
    return read_split("train", SplitConfig(ids=path.name), CorpusLocation(path.parent, "corpus", path.parent))


LAYOUT = Layout(
    num_rows=3, num_passages=1, top_k=2, temperatures=(1.0,), vocab_size=9, rows_per_shard=1024
)  # fmt: skip


def metadata_of(path: Path) -> object:
    """Faults of a cache's zarr.json files are a list; what is wrong with this one is told by the first."""
    folder = path.parents[2]
    told = [fault for fault in metadata_faults(folder, LAYOUT, {}) if "row/gold_id" in fault]
    raise CacheError(f"{told[0]} ({path.name})") if told else AssertionError("nothing was told")


def tuning_of(path: Path) -> object:
    """The student that it must belong to is asked once the file itself is sound."""
    return read_tuning(path, cast(Recogniser, None), "words")


# What is read -> where it lies below a folder, who reads it, whose exception tells of a fault
READERS: dict[str, Reader] = {
    "a config": ("own.toml", lambda path: load_config(str(path)), PipelineError),
    "a ladder": ("own.toml", lambda path: load_ladder(str(path)), PipelineError),
    "results of a ladder": ("results.json", _known_seconds, PipelineError),
    "a run's record": ("run.json", lambda path: read_record(path.parent), PipelineError),
    "a preparation's record": ("prepare.json", lambda path: _reuse(path.parent, {}, ""), PipelineError),
    "a preparation's digests": (
        "prepare.json",
        lambda path: require_unchanged(path.parent),
        PipelineError,
    ),
    "a corpus' summary": ("corpus.json", lambda path: _existing(path.parent, {}), PipelineError),
    "a corpus' sites": ("sites.jsonl", lambda path: read_sites(path.parent, "test"), PipelineError),
    "transcripts": ("dev.ref.trn", read_trn, PipelineError),
    "an evaluation": (
        "evaluation/test.utterances.jsonl",
        lambda path: evaluations_of(path.parents[1]),
        PipelineError,
    ),
    "a packed run": ("packed.json", lambda path: read_run(path, roots_from({})), PipelineError),
    "homophones": ("alike.txt", read_homophones, PipelineError),
    "an ARPA file": ("units.arpa", read_arpa, PipelineError),
    "an id list": ("ids.txt", listed, PipelineError),
    "the best step": ("checkpoints/best.json", lambda path: best_step(path.parents[1]), StudentError),
    "metrics": ("metrics.jsonl", lambda path: metrics(path.parent), StudentError),
    "a result": ("result.json", lambda path: read_result(beside(path, "final.pt")), StudentError),
    "a run's lock": (".lock", lambda path: is_running(path.parent), StudentError),
    "a run's cache": ("cache.json", lambda path: _noted(path.parent), (StudentError, CacheError)),
    "a manifest": ("train.jsonl", read_manifest, StudentError),
    "units": ("units.model", Units.from_file, StudentError),
    "a checkpoint": ("step-00000001.pt", load_checkpoint, StudentError),
    "an export's settings": (
        "model.toml",
        lambda path: read_exported(beside(path, "model.safetensors", "units.model")),
        StudentError,
    ),
    "a tuning": ("tuning/words.json", tuning_of, StudentError),
    "weights": ("model.safetensors", read_safetensors, StudentError),
    "a cache's manifest": ("manifest.json", lambda path: read_cache_manifest(path.parent), CacheError),
    "a receipt": ("receipts/0.json", lambda path: read_receipts(path.parents[1]), CacheError),
    "an array's metadata": ("row/gold_id/zarr.json", metadata_of, CacheError),
    "a cache's name": ("names/demo", lambda path: resolve(path.parents[1], "demo"), CacheError),
    "a plan": ("plan.json", lambda path: BuildPlan.read(path.parent), CacheError),
    "a build's lock": ("a.lock", read_owner, CacheError),
    "a teacher's note": ("bert2ctc_teacher.json", lambda path: read_note(path.parent), CacheError),
    "a teacher's config": ("config.json", lambda path: model_family(path.parent), CacheError),
    "a vocabulary": ("vocab.txt", lambda path: make_tokenizer("vocab.txt", 9, path, []), CacheError),
}
NEVER_PARSED = {
    "an id list",
    "homophones",
    "a run's lock",
}  # lines are items or words; a lock is held
ANY_OBJECT = {"a run's record", "a preparation's digests", "a teacher's note", "a teacher's config"}
FREE_TEXT = {"a vocabulary", "transcripts"}
THINGS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
}
CONTENTS = {
    "no UTF-8": b'{"step": 1, "\xff": 2}\n\n',
    "deep": b"[" * 100_000 + b"\n\n",
    "key twice": b'{"step": 1, "step": 1}\n\n',
    "not a number": b'{"step": NaN}\n\n',
    "half a character": rb'{"step": "\ud800"}' + b"\n\n",
    "a list": b"[1, 2]\n\n",
    "a number": b"7\n\n",
    "other keys": b'{"nobody": "knows"}\n\n',
    "zeros": bytes(5000) + b"\n\n",
}


def refused(path: Path, reader: Reader) -> str:
    with pytest.raises(reader[2]) as caught:
        reader[1](path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    return str(caught.value)


@pytest.fixture(params=READERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_file_is_refused_by_every_reader_and_never_waited_for(
    kind: str, thing: str, tmp_path: Path
) -> None:
    path = tmp_path / READERS[kind][0]
    path.parent.mkdir(exist_ok=True, parents=True)
    THINGS[thing](path)
    if kind in ("a config", "a ladder"):
        assert "neither a TOML file nor one of" in refused(path, READERS[kind])
    else:
        assert path.name in refused(path, READERS[kind])


@pytest.mark.parametrize("content", CONTENTS)
def test_a_foreign_content_is_one_line_of_every_reader(kind: str, content: str, tmp_path: Path) -> None:
    if kind in NEVER_PARSED or (kind in ANY_OBJECT and content == "other keys"):
        return
    path = tmp_path / READERS[kind][0]
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(CONTENTS[content])
    if kind in FREE_TEXT and content != "no UTF-8":
        READERS[kind][1](path) if kind == "transcripts" else refused(path, READERS[kind])
        return
    assert path.name in refused(path, READERS[kind])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", [*THINGS, *CONTENTS])
def test_a_note_of_what_an_old_cache_holds_is_made_again_or_told(
    fault: str, old_cache: Path, tmp_path: Path
) -> None:
    """A note vouches for nothing that it is not itself vouched for: the cache is read whole once more."""
    cache = CheckedCache(old_cache)
    note = tmp_path / f"{old_cache.name}.columns.json"
    if fault in THINGS:
        THINGS[fault](note)
    else:
        note.write_bytes(CONTENTS[fault])
    if fault == "folder":  # which no file replaces
        told = refused(note, ("", lambda path: column_digests(cache, tmp_path), CacheError))
        assert "Is a directory" in told and str(note) in told
        return
    assert column_digests(cache, tmp_path) == column_digests(cache, None)
    assert note.is_file() and not note.is_symlink()
    written = note.read_bytes()
    assert column_digests(cache, tmp_path) == column_digests(cache, None)
    assert note.read_bytes() == written


@pytest.fixture(scope="module")
def old_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    return as_version_0_1(make(folder, plan_of(passages_named(3), config=CacheConfig(top_k=8))))


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="becomes another user, as root can")
def test_another_user_is_told_of_what_he_may_not_read() -> None:
    """Root may read everything: the readers run as somebody else, in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # pytest's own folders are closed to others
        if closed := [one for one in Path(folder).parents if one.stat().st_mode & 0o005 != 0o005]:
            pytest.skip(f"{closed[0]} is closed to other users")
        look_as_nobody(Path(folder))


def look_as_nobody(tmp_path: Path) -> None:
    for kind, (name, _, _) in READERS.items():
        path = tmp_path / kind.replace(" ", "_").replace("'", "") / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        path.chmod(0)
    (tmp_path / "a_run").mkdir()
    (tmp_path / "a_run" / "sealed").mkdir(mode=0)
    (tmp_path / "told").touch()
    child = os.fork()
    if child == 0:
        os._exit(_as_nobody(tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, (tmp_path / "told").read_text()


def _as_nobody(folder: Path) -> int:
    """0 where every reader tells another user that he may not, and so does every writer."""
    told = (folder / "told").open("w")
    os.setgid(65534)
    os.setuid(65534)
    faults = 0
    cases: list[tuple[str, Callable[[], object], Errors]] = [
        (kind, lambda path=path, read=read: read(path), error)  # type: ignore[misc]
        for kind, (name, read, error) in READERS.items()
        if kind not in ("a result", "an id list", "an export's settings")  # they make files beside
        for path in [folder / kind.replace(" ", "_").replace("'", "") / name]
    ]
    cases += [
        ("a mark", lambda: mark_best(folder / "a_run", 1, 0.5), StudentError),
        ("a name", lambda: write_name(folder / "a_run", "demo", "0" * 32), CacheError),
        ("a sealed folder", lambda: read_cache_manifest(folder / "a_run" / "sealed"), CacheError),
    ]
    for kind, act, error in cases:
        try:
            act()
            told.write(f"{kind}: nothing was told\n")
            faults += 1
        except error as caught:
            if "Permission denied" not in str(caught) or "\n" in str(caught):
                told.write(f"{kind}: {caught}\n")
                faults += 1
        except BaseException as caught:  # of a forked process: nothing may escape
            told.write(f"{kind}: {caught!r}\n")
            faults += 1
    told.close()
    return int(faults > 0)


# ---- no other reader ----

# Calls that read a file or parse a foreign text, by the last parts of their name
READING = {
    "read_text",
    "read_bytes",
    "json.load",
    "json.loads",
    "tomllib.load",
    "tomllib.loads",
    "torch.load",
}
READING |= {
    "np.load",
    "np.fromfile",
    "np.memmap",
    "zipfile.ZipFile",
    "tarfile.open",
    "lzma.open",
    "gzip.open",
}
ALLOWED = {
    "teacher_cache/common/small_files.py": {"tomllib.loads"},  # the reader
    "student/training/checkpoint.py": {"torch.load", "zipfile.ZipFile"},  # of a stream of `open_regular`
    "teacher_cache/store/memory_map.py": {"np.memmap"},  # of a file whose digest `ensure_map` compared
    "teacher_cache/teacher_training/tokens.py": {"np.load"},  # our own arrays in scratch, never pickled
    "teacher_cache/teacher_training/text.py": {"lzma.open", "gzip.open"},  # of streams that it opened
    "pipeline/language_model/arpa.py": {"gzip.open"},  # of a stream of `open_regular`
    "pipeline/corpus/download.py": {"tarfile.open"},  # of a stream whose MD5 is published
}


def calls_of(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            yield from {node.func.attr, f"{owner}.{node.func.attr}"} & READING


def test_no_file_of_the_packages_reads_by_anything_else() -> None:
    found: dict[str, set[str]] = {}
    for package in ("pipeline", "student", "teacher_cache"):
        for path in (ROOT / package).rglob("*.py"):
            if calls := set(calls_of(path.read_text(encoding="utf-8"))):
                found[path.relative_to(ROOT).as_posix()] = calls
    assert found == ALLOWED


def test_the_probe_finds_readers() -> None:
    source = "import json\njson.loads(a.read_text())\nfolder.joinpath('a').read_bytes()\njson.dumps(b)\n"
    assert sorted(calls_of(source)) == ["json.loads", "read_bytes", "read_text"]


def test_a_wrong_config_is_told_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('base = "demo"\n[trainer]\nlearning_rate = nan\n')
    code = (
        "import sys\nfrom pipeline.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    print(end.code, *sys.modules)\n"
    )
    for command in (["train"], ["cache", "build"], ["data", "prepare"], ["teacher", "train"], ["experiment"]):
        config = str(tmp_path / "own.toml")
        if command == ["experiment"]:
            (tmp_path / "ladder.toml").write_text(
                'config = "demo"\n[students.one]\n"trainer.learning_rate" = nan\n'
            )
            config = str(tmp_path / "ladder.toml")
        done = subprocess.run(
            [sys.executable, "-c", code, *command, config], capture_output=True, text=True, cwd=tmp_path
        )
        code_and_modules = done.stdout.split()
        assert code_and_modules[0] == "1", done.stderr
        assert "learning_rate nan must be finite, >= 0, <= 10" in done.stderr
        assert done.stderr.count("\n") == 1
        heavy = {"torch", "transformers", "zarr", "dask", "distributed", "sentencepiece"}
        assert not (found := heavy & set(code_and_modules[1:])), (command, found)
