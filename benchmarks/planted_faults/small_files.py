"""Group 2, a damaged or foreign file: one line of every reader, and lists go on with the sound ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from case import Case
from damages import (
    ARCHIVES,
    BINARY,
    CHECKPOINTS,
    NO_FILE,
    TEXT,
    TORN,
    Damage,
    bytes_instead,
    half,
    malicious,
)
from spoiling import texts_exchanged
from state import cache_of

Plant = Callable[[Path], object]
RUN = "runs/tones"
SHORT = "--run-dir new --set trainer.max_steps=1"


def cases() -> Iterator[Case]:
    yield from _of_a_run()
    yield from _of_names_and_manifests()
    yield from _of_exports()
    yield from _of_checkpoints()
    yield from _of_preparations()
    yield from _of_teachers()
    yield from _of_archives_and_recordings()
    yield from _sound()


def _each(
    name: str,
    damages: dict[str, Damage],
    commands: dict[str, int],
    first: Plant | None = None,
    may_write: tuple[str, ...] = (),
    told: str = "",
) -> Iterator[Case]:
    """Every damage before the first command, and the other commands before the damages in turn."""
    spread = list(damages.items())
    pairs = [(damage, command) for damage in spread for command in list(commands)[:1]]
    for number, command in enumerate(list(commands)[1:]):
        pairs += [(spread[(number + step) % len(spread)], command) for step in range(min(2, len(spread)))]
    for (kind, damage), command in pairs:

        def plant(folder: Path, damage: Damage = damage) -> None:
            if first:
                first(folder)
            (path,) = folder.glob(name)
            damage(path)

        yield Case(
            group=2,
            fault=f"{name}: {kind}",
            command=command,
            code=commands[command],
            plant=plant,
            may_write=may_write,
            told=told or ("damaged" if command == "runs ls" else ""),
        )


def _of_a_run() -> Iterator[Case]:
    text = {**TEXT, **NO_FILE}
    listed = {"runs ls": 0}
    yield from _each(
        f"{RUN}/run.json",
        text,
        {
            **listed,
            "runs diff tones again": 1,
            "evaluate tones": 1,
            "train tones.toml": 1,
            "compare tones again --split dev": 1,
            "report tones --out new.html": 1,
            "runs pack tones new.json": 1,
        },
    )
    yield from _each(f"{RUN}/checkpoints/best.json", text, {**listed, "runs diff tones again": 1})
    yield from _each(
        f"{RUN}/checkpoints/best.json",
        {**TEXT, "a FIFO": NO_FILE["a FIFO"]},
        {"evaluate tones": 1, "train tones.toml": 1, "export tones new": 1, "transcribe tones said.wav": 1},
        _unfinished,
    )
    lines = {kind: damage for kind, damage in text.items() if kind != "endless"}  # a torn last line
    yield from _each(
        f"{RUN}/metrics.jsonl",
        lines,
        {
            **listed,
            "runs diff tones again": 1,
            "report tones --out new.html": 1,
            "runs pack tones new.json": 1,
        },
    )
    yield from _each(f"{RUN}/metrics.jsonl", lines, {"train tones.toml": 1}, _unfinished)
    yield from _each(f"{RUN}/result.json", text, {"train tones.toml": 1, "report tones --out new.html": 1})
    yield from _each(f"{RUN}/.lock", NO_FILE, {**listed, "train tones.toml": 1, "runs diff tones again": 1})
    yield from _each(
        f"{RUN}/evaluation/dev.utterances.jsonl",
        text,
        {
            "compare tones again --split dev": 1,
            "report tones --out new.html": 1,
            "runs pack tones new.json": 1,
        },
        lambda folder: shutil.copytree(folder / RUN / "evaluation", folder / "runs/again/evaluation"),
    )
    yield from _each(f"{RUN}/evaluation/dev.json", text, {"compare tones again --split dev": 1})


def _of_names_and_manifests() -> Iterator[Case]:
    text = {
        **TEXT,
        **NO_FILE,
        "another's name": bytes_instead(b"0" * 32),
        "no name": bytes_instead(b"../../etc"),
    }
    known = {name: damage for name, damage in text.items() if name != "another's name"}
    yield from _each("caches/names/tones", known, {"cache ls": 0, "runs ls": 0}, told="names/tones")
    yield from _each(
        "caches/names/tones",
        text,
        {
            "cache info tones": 1,
            f"train tones.toml {SHORT}": 1,
            "cache verify tones": 1,
            "cache pack tones new.pack": 1,
        },
    )
    manifest, text = "caches/*/manifest.json", {**TEXT, **NO_FILE, **BINARY}
    yield from _each(manifest, {**TEXT, **BINARY, "a FIFO": NO_FILE["a FIFO"]}, {"cache ls": 0})
    yield from _each(
        manifest,
        {**TEXT, **BINARY},
        {
            "cache info tones": 1,
            f"train tones.toml {SHORT}": 1,
            "cache pack tones new.pack": 1,
            "cache inspect tones --config tones.toml 100-7-0000": 1,
        },
    )
    tables = {**BINARY, **NO_FILE, "lost": Path.unlink}
    yield from _each(
        "caches/*/vocabulary/utf8/c/0",
        tables,
        {
            f"train tones.toml {SHORT}": 1,
            "cache inspect tones --config tones.toml 100-7-0000": 1,
            "cache pack tones new.pack": 1,
        },
    )
    for kind, damage in tables.items():
        for name in ("vocabulary/utf8/c/0", "row/top_id/c/0/0", "receipts/0.json"):
            yield Case(
                group=2, fault=f"{name}: {kind}", command="cache verify tones", is_listed=True,
                plant=lambda folder, name=name, damage=damage: damage(cache_of(folder) / name),  # type: ignore[misc]
            )  # fmt: skip


def _of_exports() -> Iterator[Case]:
    heard = {"transcribe exported said.wav": 1}
    yield from _each("exported/model.toml", {**TEXT, **NO_FILE, **BINARY}, heard)
    yield from _each("exported/model.safetensors", {**BINARY, **NO_FILE, "too deep": TEXT["too deep"]}, heard)
    yield from _each("exported/units.model", {**BINARY, **NO_FILE, "lost": Path.unlink}, heard)
    yield from _each(
        "exported/model.toml", {"half of it": half, "lost": Path.unlink}, {"export tones exported": 1}
    )


def _of_checkpoints() -> Iterator[Case]:
    damages = {**BINARY, **NO_FILE, **CHECKPOINTS}
    readers = {"evaluate tones": 1, "export tones new": 1, "transcribe tones said.wav": 1}
    yield from _each(f"{RUN}/final.pt", damages, readers)
    yield from _each(
        f"{RUN}/checkpoints/step-00000002.pt",
        damages,
        {"train tones.toml": 1},
        _unfinished,
        may_write=(f"{RUN}/metrics.jsonl",),  # what lies behind the checkpoint goes before units are compared
    )
    begun = f"train tones.toml {SHORT} --set trainer.initial_checkpoint={RUN}/checkpoints/step-00000004.pt"
    yield from _each(f"{RUN}/checkpoints/step-00000004.pt", {**BINARY, **CHECKPOINTS}, {begun: 1})
    yield Case(
        group=2,
        fault="a malicious checkpoint",
        command="evaluate tones",
        plant=lambda folder: malicious(folder / RUN / "final.pt"),
        told="could run a program",
        never_told="weights_only",
    )
    yield Case(
        group=2,
        fault="a training whose weights become NaN",
        code=1,
        command="train tones.toml --run-dir new --set trainer.learning_rate=10 --set trainer.gradient_clip=0 "
        "--set trainer.warmup_steps=0 --set trainer.max_steps=60 --set trainer.explosion_ratio=1.0001",
        may_write=("new/metrics.jsonl", "new/checkpoints/*", "new/events*"),
    )


def _of_preparations() -> Iterator[Case]:
    text = {**TEXT, **NO_FILE}
    train = {f"train tones.toml {SHORT}": 1}
    yield from _each("runs/prepared/tones-*/train.jsonl", text, {**train, "cache build tones.toml": 1})
    units = {**BINARY, **NO_FILE}
    yield from _each(
        "runs/prepared/tones-*/units.model", units, {**train, "lm ngram tones.toml --of units": 1}
    )
    exchanged: dict[str, Damage] = {"two texts exchanged": texts_exchanged}
    used = {
        command: 1
        for command in (*train, "cache build tones.toml --set cache.top_k=8", "lm ngram tones.toml")
    }
    yield from _each("runs/prepared/tones-*/train.jsonl", exchanged, used)
    yield from _each("runs/prepared/tones-*/prepare.json", text, {"data prepare tones.toml": 1})
    yield from _each("runs/prepared/tones-*/dev.jsonl", text, {"evaluate tones": 1, **train})


def _of_teachers() -> Iterator[Case]:
    build = "cache build tones.toml --set cache.top_k=8"
    yield from _each("bert/model.safetensors", {**TORN, **NO_FILE}, {build: 1})
    yield from _each("bert/config.json", {**TEXT, **NO_FILE}, {build: 1, f"train tones.toml {SHORT}": 1})
    yield from _each(
        "bert/tokenizer.json",
        {**BINARY, "a FIFO": NO_FILE["a FIFO"], "too deep": TEXT["too deep"]},
        {build: 1},
    )

    pipe = {"a FIFO": NO_FILE["a FIFO"]}  # of which no command of ours knows, and which transformers may open
    for name in ("generation_config.json", "adapter_config.json", "special_tokens_map.json"):
        yield from _each(f"bert/{name}", pipe, {build: 1}, first=partial(_write_table, f"bert/{name}"))
    recomputed = "cache verify tones --config tones.toml --recompute 100%"
    yield from _each("bert/model.safetensors", {**pipe, "half of it": half}, {recomputed: 1})


def _write_table(name: str, folder: Path) -> None:
    (folder / name).write_text("{}")


def _of_archives_and_recordings() -> Iterator[Case]:
    unpack = "cache unpack tones.pack --cache-root new"
    archives = {**BINARY, **NO_FILE, **ARCHIVES}
    yield from _each("tones.pack", archives, {unpack: 1})
    heard = "transcribe tones said.wav"
    recordings = {"empty": TORN["empty"], **NO_FILE, "a text": bytes_instead(b"no sound\n" * 99)}
    yield from _each("said.wav", recordings, {heard: 1})
    yield from _each("said.wav", {"half of it": half}, {heard: 0}, told="is cut off after")


def _sound() -> Iterator[Case]:
    for command, writes in (
        ("runs ls", ()),
        ("runs diff tones again", ()),
        ("evaluate tones", (f"{RUN}/evaluation/*",)),
        ("transcribe tones said.wav", ()),
        ("transcribe exported said.wav", ()),
        ("export tones new", ("new/*",)),
        ("export tones exported", ()),
        ("report tones --out new.html", ("new.html",)),
        ("runs pack tones new.json", ("new.json",)),
        ("cache unpack tones.pack --cache-root new", ("new/*",)),
        ("data prepare tones.toml", ()),
    ):
        yield Case(group=2, fault="none", command=command, code=0, may_write=writes)
    half_line = Case(
        group=2,
        fault="a half-written last line of metrics.jsonl",
        command="runs ls",
        code=0,
        plant=lambda folder: (folder / RUN / "metrics.jsonl").open("a").write('{"step": 5, "ki'),
    )
    yield half_line
    yield Case(
        group=2,
        fault="killed before its last steps",
        command="train tones.toml",
        code=0,
        plant=_unfinished,
        may_write=(f"{RUN}/*",),
    )


def _unfinished(folder: Path) -> None:
    """The run as a kill before its last steps would have left it."""
    for name in ("final.pt", "result.json", "checkpoints/step-00000004.pt"):
        (folder / RUN / name).unlink(missing_ok=True)
