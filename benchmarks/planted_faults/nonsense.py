"""Group 3, settings and inputs without bounds: each is refused before anything is done, in one line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from case import Case
from fakes import write_jsonl
from state import TABLES
from test_corpus_foreign_lines import FOREIGN

SETTINGS = (
    "trainer.learning_rate=nan", "trainer.learning_rate=inf", "trainer.learning_rate=-1",
    "trainer.weight_decay=-1", "trainer.evaluate_every_steps=0",
    "trainer.max_steps=100000000000000000000000", "trainer.max_steps=0", "trainer.max_steps=1e5",
    "trainer.max_steps=", "trainer.max_steps=[[[", "trainer.max_steps='x'", "trainer.max_steps=true",
    "trainer.seed=-1", "trainer.batch_seconds=0", "trainer.batch_seconds=nan", "trainer.precision=float64",
    "trainer.device=tpu", "trainer.gradient_clip=-inf", "trainer.keep_checkpoints=0", "trainer.threads=-2",
    "trainer.data_workers=100000", "trainer.label_memory_megabytes=-1", "trainer.average_decay=1",
    "trainer.explosion_ratio=1", "trainer.=1", "trainer.learning_rte=1", "trainre.seed=1", "trainer=1",
    ".a=1", "seed=1", "trainer.seed", "=", "conformer.dropout=2", "conformer.dropout=nan",
    "conformer.num_heads=0", "conformer.num_heads=3", "conformer.conv_kernel_frames=4",
    "conformer.taps=[9]", "conformer.taps=[0]", "conformer.taps=5", "conformer.model_dim=1000000",
    "conformer.subsampling=5", "decoder.history=2", "decoder.num_heads=3", "decoder.logits_megabytes=0",
    "objective.ctc_weight=0", "objective.ctc_weight=nan", "objective.temperature=0",
    "objective.temperature=3", "objective.top_k=0", "objective.top_k=25", "objective.tail=none",
    "objective.label_smoothing=1", "augmentation.speed_factors=[]", "augmentation.speed_factors=[9]",
    "augmentation.time_mask_fraction=2", "features.mel_bins=0", "features.window_milliseconds=inf",
    "cache.top_k=0", "cache.temperatures=[]", "cache.temperatures=[2.0]", "cache.temperatures=[1.0,nan]",
    "cache.masking=words", "cache.context_words=-1", "build.workers=-1", "build.rows_per_shard=5",
    "build.splits=['tset']", "data.min_seconds=50", "data.max_seconds=inf", "data.unit_vocabulary_size=0",
    "data.splits={}", "data.splits=[]", "data.corpus='../x'", "data.corpus='/etc'", "teacher.name='../x'",
    "teacher.name='a b'", "teacher.model=", "language_model.word_order=99",
)  # fmt: skip
# Told only once the cache or the data are seen
LATE = ("objective.temperature=3", "objective.top_k=25", "teacher.model=")
DEV = 'dev = { folders = ["dev"] }\n'
FILES: dict[str, str | bytes] = {
    "no UTF-8": b"\xff",
    "UTF-16": TABLES.encode("utf-16"),
    "empty": "",
    "base is a number": "base = 5\n",
    "base is a list": 'base = ["demo"]\n',
    "base is nowhere": 'base = "nowhere"\n',
    "base is itself": 'base = "own.toml"\n',
    "base is a NUL": 'base = "\\u0000"\n',
    "trainer is a list": "trainer = []\n" + TABLES.replace("[trainer]", "[trainer2]"),
    "trainer is a list of tables": TABLES.replace("[trainer]", "[[trainer]]"),
    "data is a date": "data = 1979-05-27\n[teacher]\nmodel = 'bert'\n",
    "no split": TABLES.replace(DEV, "").replace('train = { folders = ["train"] }\n', ""),
    "no train split": TABLES.replace('train = { folders = ["train"] }\n', ""),
    "a split named ../../x": TABLES.replace(DEV, '"../../x" = { folders = ["dev"] }\n'),
    "a split named a/b": TABLES.replace(DEV, '"a/b" = { folders = ["dev"] }\n'),
    "a split without a name": TABLES.replace(DEV, '"" = { folders = ["dev"] }\n'),
    "a split named .hidden": TABLES.replace(DEV, '".hidden" = { folders = ["dev"] }\n'),
    "a split named by a terminal's escape": TABLES.replace(DEV, '"\\u001b[2J" = { folders = ["dev"] }\n'),
    "a split's folder leaves": TABLES.replace('["dev"]', '["../../etc"]'),
    "a split's folder is absolute": TABLES.replace('["dev"]', '["/etc"]'),
    "a split of two kinds": TABLES.replace('["dev"] }', '["dev"], manifest = "m.jsonl" }'),
    "a split's manifest leaves": TABLES.replace('folders = ["dev"]', 'manifest = "../m.jsonl"'),
    "a long key": TABLES + '"' + 5000 * "x" + '" = 1\n',
    "a long table": "[" + 5000 * "a" + "]\nx = 1\n" + TABLES,
    "brackets": "x = " + 100_000 * "[",
    "a huge integer": TABLES.replace("max_steps = 4", "max_steps = 0x" + 3000 * "f"),
    "a key twice": TABLES + "seed = 1\nseed = 1\n",
    "learning_rate inf": TABLES + "learning_rate = inf\n",
    "dropout 2": TABLES.replace("dropout = 0.0", "dropout = 2"),
    "an unknown table": TABLES + "[trainre]\nseed = 1\n",
}
NAMES = ("a b.toml", "é.toml", ".toml.toml", "x" * 150 + ".toml", "-x.toml")
REFERENCES = ("nowhere", "''", "/", ".", "a/b/c", "x" * 5000, "'a\nb'", "'\x1b[2J'")
LADDERS: dict[str, str] = {
    "empty": "",
    "no student": 'config = "demo"\n',
    "config is a number": 'config = 5\n[students.a]\n"trainer.seed" = 1\n',
    "a student that leaves": 'config = "demo"\n[students."../a"]\n"trainer.seed" = 1\n',
    "NaN": 'config = "demo"\n[students.a]\n"trainer.learning_rate" = nan\n',
    "an unknown key": 'config = "demo"\n[students.a]\n"trainer.sed" = 1\n',
    "evaluate is a word": 'config = "demo"\nevaluate = "dev"\n[students.a]\n"trainer.seed" = 1\n',
}
WORDS = (
    "train",
    "cache build",
    "data prepare",
    "teacher train",
    "train --dry-run",
    "data demo",
    "cache build --dry-run",
)
OPTIONS = (
    ("cache verify tones --config tones.toml --recompute x", 1),
    ("cache verify tones --config tones.toml --recompute nan", 1),
    ("cache verify tones --config tones.toml --recompute 200%", 1),
    ("cache verify tones --config tones.toml --recompute -1", 1),
    ("cache inspect tones 100-7-0000 --top 0", 2), ("cache inspect tones", 2),
    ("cache inspect tones nobody --config tones.toml", 1),
    ("cache inspect tones --text 'never labelled'", 1), ("cache info nowhere", 1), ("cache info ''", 1),
    ("cache info ../..", 1), ("cache rm tones", 1), ("cache rm ''", 1), ("cache rm ../caches", 1),
    ("evaluate nowhere", 1), ("evaluate tones --split tset", 1), ("evaluate tones --split ../x", 1),
    ("evaluate tones --device tpu", 1), ("evaluate tones --average 99", 1),
    ("evaluate tones --average -1", 1), ("evaluate tones --decoder nonsense", 2),
    ("evaluate tones --decoder words", 1), ("transcribe tones nowhere.wav", 1),
    ("transcribe nowhere said.wav", 1), ("transcribe tones", 2),
    ("transcribe tones said.wav --format docx", 2), ("train tones.toml --gpus 0", 1),
    ("train tones.toml --gpus -1", 1), ("train tones.toml --gpus x", 2),
    ("train tones.toml --cache nowhere --run-dir new", 1), ("train tones.toml --run-dir tones.toml", 1),
    ("train tones.toml --set trainer.max_steps=9", 1), ("train --no-such-option", 2),
    ("no-such-command", 2), ("compare tones nowhere", 1), ("compare tones again --split dev", 1),
    ("runs diff tones nowhere", 1), ("export nowhere new", 1), ("export tones bert", 1),
    ("export tones tones.toml", 1), ("report nowhere", 1), ("data download nonsense", 1),
    ("data download", 1), ("data demo tones.toml", 1), ("experiment nowhere", 1),
    ("cache gc --cache-root nowhere", 0), ("cache ls --cache-root nowhere", 0),
    ("runs ls --runs-root nowhere", 0),
)  # fmt: skip


def cases() -> Iterator[Case]:
    words = cycle(WORDS[:4])
    for setting in SETTINGS:
        command = "train" if setting in LATE else next(words)
        more = " --run-dir new --set trainer.max_steps=1" if setting in LATE else ""
        yield Case(
            group=3,
            fault="a setting" if setting not in LATE else "a setting beyond the cache",
            command=f"{command} tones.toml --set {shlex.quote(setting)}{more}",
        )
    for (fault, content), command in zip(FILES.items(), cycle(WORDS), strict=False):
        yield _of_file(f"a config: {fault}", "own.toml", content, f"{_put(command, 'own.toml')}")
    for name in NAMES:
        yield _of_file("a config's name", name, TABLES, f"train {shlex.quote('./' + name)}")
    for reference in REFERENCES:
        yield Case(group=3, fault="a config's reference", command=f"train {reference}")
    for fault, text in LADDERS.items():
        yield _of_file(f"a ladder: {fault}", "own.toml", text, "experiment own.toml")
    for command, code in OPTIONS:
        yield Case(group=3, fault="an argument", command=command, code=code)
    yield from _foreign_lines()
    yield from _sound()


def _put(command: str, config: str) -> str:
    word, _, option = command.partition(" --")
    return f"{word} {config}{' --' + option if option else ''}"


def _of_file(fault: str, name: str, content: str | bytes, command: str) -> Case:
    data = content if isinstance(content, bytes) else content.encode()
    return Case(group=3, fault=fault, command=command, plant=lambda folder: (folder / name).write_bytes(data))


def _foreign_lines() -> Iterator[Case]:
    for fault, line in FOREIGN.items():
        yield Case(
            group=3,
            fault=f"a manifest's line: {fault}",
            command="data prepare own.toml",
            told="1 bad utterance",
            plant=lambda folder, line=line: _manifest(folder, line),  # type: ignore[misc]
        )
    everything = b"\n".join(FOREIGN.values())
    yield Case(
        group=3,
        fault="every foreign line",
        command="data prepare own.toml",
        told=f"{len(FOREIGN)} bad",
        plant=lambda folder: _manifest(folder, everything),
    )
    yield Case(
        group=3,
        fault="every foreign line, left out",
        command="data prepare own.toml --leave-out-bad",
        code=0,
        plant=lambda folder: _manifest(folder, everything),
        may_write=("runs/prepared/few-*",),
    )
    for fault, line in {
        "a NUL": b"a\0b TEXT",
        "a way out": b"../../../a-7-0000 TEXT",
        "no UTF-8": b"100-7-0009 \xff",
    }.items():
        yield Case(
            group=3,
            fault=f"a transcript's line: {fault}",
            command="data prepare few.toml --set data.min_seconds=0.02",
            plant=lambda folder, line=line: _transcript(folder, line),
            told="1 bad utterance",  # type: ignore[misc]
        )


def _sound() -> Iterator[Case]:
    """A config without a dev split is prepared, labelled and trained."""
    new = "--cache-root other --run-dir new --set trainer.max_steps=1"
    for command, writes in (
        ("data prepare few.toml", ()),
        ("cache build few.toml --cache-root other", ()),
        ("cache build few.toml --cache-root new", ("new/*",)),
        (f"train few.toml {new}", ("new/*",)),
        ("train tones.toml --dry-run --run-dir new", ()),
        ("cache build tones.toml --dry-run --set cache.top_k=8", ()),
    ):
        yield Case(group=3, fault="none", command=command, code=0, may_write=writes)


def _manifest(folder: Path, lines: bytes) -> None:
    """A corpus that is a manifest, sound lines and then these."""
    from state import own_data

    data = own_data(folder)
    sound = [
        {"audio": str(path.relative_to(data)), "text": text}
        for transcript in sorted((data / "few").rglob("*.trans.txt"))
        for name, text in (line.split(" ", 1) for line in transcript.read_text().splitlines())
        for path in [transcript.parent / f"{name}.flac"]
    ]
    write_jsonl(data / "list.jsonl", sound)
    with (data / "list.jsonl").open("ab") as stream:
        stream.write(lines + b"\n")
    tables = (folder / "few.toml").read_text().replace('folders = ["train"]', 'manifest = "list.jsonl"')
    (folder / "own.toml").write_text(tables)
    assert json.dumps(sound[0]) in (data / "list.jsonl").read_text(errors="replace")


def _transcript(folder: Path, line: bytes) -> None:
    from state import own_data

    path = next((own_data(folder) / "few").rglob("100-7.trans.txt"))
    path.write_bytes(path.read_bytes() + line + b"\n")
