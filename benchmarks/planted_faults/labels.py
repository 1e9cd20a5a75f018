"""Group 1, labels that are not what they are taken for: nothing of a changed cache is ever trained on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from case import Case
from forgery import edit, edit_receipts, forge
from state import cache_of
from test_store_trust import CHANGED, FORGED, at

Plant = Callable[[Path], object]
TRAIN = "train tones.toml --run-dir new --set trainer.max_steps=1"
MAPPED = f"{TRAIN} --set trainer.label_memory_megabytes=0"
VERIFY = "cache verify tones"
INSPECT = "cache inspect tones --config tones.toml 100-7-0000 100-7-0003 101-7-0001 102-7-0002"
PACK, PUSH = "cache pack tones new.pack", "cache push tones file://{folder}/pushed"
OLD = " --cache-root old"
TESTED: dict[str, Plant] = {**CHANGED, **{f"forged: {name}": plant for name, plant in FORGED.items()}}
# What the tests do to a cache of their own fits ours, but for one piece that our vocabulary has
CHANGES: dict[str, Plant] = {
    **TESTED,
    "forged: a piece of no vocabulary": lambda cache: forge(cache, {"row/top_id": at((9, 3), 9999)}),
    "receipts of shards 0 and 1 exchanged": lambda cache: _exchange_receipts(cache),
    "a receipt lost": lambda cache: (cache / "receipts/1.json").unlink(),
    "an extra receipt": lambda cache: shutil.copy(cache / "receipts/0.json", cache / "receipts/7.json"),
    "a receipt of other figures": lambda cache: edit_receipts(cache, lambda receipt: receipt.update(rows=7)),
    "an unsigned manifest": lambda cache: edit(cache, lambda entry: entry["build"].update(a=1), sign=False),
    "another recipe in the manifest": lambda cache: edit(
        cache, lambda entry: entry["recipe"].update(masking="whole_word")
    ),
    "another contents digest": lambda cache: edit(
        cache, lambda entry: entry.update(contents_sha256="0" * 64)
    ),
}
# Told by those that look at the folder or the receipts' files, which a training does not need
SEEN_BY_VERIFY_ALONE: dict[str, Plant] = {
    "a foreign file": lambda cache: (cache / "notes.txt").write_text("mine"),
    "a foreign file among the arrays": lambda cache: (cache / "row/top_id/c/9").mkdir(),
    "a foreign empty folder": lambda cache: (cache / "mine").mkdir(),
    "a half-written file": lambda cache: (cache / "manifest.json.partial").write_text("{"),
}
FOLDER: dict[str, Plant] = {
    "a foreign link": lambda cache: (cache / "notes").symlink_to("/etc/hostname"),
    "a link that leads nowhere": lambda cache: (cache / "notes").symlink_to("nowhere"),
    "a foreign FIFO": lambda cache: os.mkfifo(cache / "notes"),
    "a link for a folder": lambda cache: _link_for_folder(cache / "row/top_id"),
    "a link for receipts": lambda cache: _link_for_folder(cache / "receipts"),
}
WITHOUT_TRAINING = {"a receipt lost", "an extra receipt", "receipts of shards 0 and 1 exchanged"}
MORE_READERS = {
    "shards of every array exchanged": (MAPPED, INSPECT, PACK, PUSH),
    "shards of row/top_id exchanged": (MAPPED, PACK),
    "two arrays exchanged": (MAPPED, INSPECT, PACK),
    "rows rewritten": (MAPPED, INSPECT, PUSH),
    "gold rolled": (MAPPED, INSPECT),
    "passages shifted": (MAPPED, INSPECT, PACK),
    "letters changed": (MAPPED, INSPECT),
    "zeros for a lost shard": (MAPPED, INSPECT, PACK, PUSH),
    "a FIFO for a shard": (MAPPED, INSPECT, PACK, PUSH),
    "a link for a shard": (INSPECT, PACK),
    "forged: gold rolled": (MAPPED, INSPECT),
    "forged: gold contradicts": (MAPPED, INSPECT, PACK),
    "forged: a special candidate": (MAPPED, PUSH),
    "forged: a tail too heavy": (MAPPED,),
}
OF_VERSION_0_1 = {
    "shards of every array exchanged": (VERIFY, TRAIN, MAPPED),
    "shards of row/gold_id exchanged": (VERIFY, TRAIN),
    "two arrays exchanged": (VERIFY, TRAIN),
    "rows rewritten": (VERIFY, TRAIN, INSPECT),
    "gold rolled": (VERIFY, TRAIN),
    "passages shifted": (VERIFY, TRAIN),
    "letters changed": (VERIFY, TRAIN),
    "zeros for a lost shard": (VERIFY, TRAIN),
    "a FIFO for a shard": (VERIFY, TRAIN),
    "forged: gold contradicts": (VERIFY, TRAIN),
    "forged: a special candidate": (VERIFY, TRAIN),
}
OTHER_TEACHERS = {
    "another folder": "--set teacher.model=bert2",
    "a folder that does not exist": "--set teacher.model=./nowhere",
    "a hub model": "--set teacher.model=somebody/bert",
    "a folder of the same base name": "--set teacher.model=elsewhere/bert",
    "a training": "--set 'teacher_training.text=[\"books.txt\"]' --set teacher.name=bert",
}


def cases() -> Iterator[Case]:
    yield from _sound()
    for fault, plant in CHANGES.items():
        yield case(fault, VERIFY, plant)
        if fault not in WITHOUT_TRAINING:
            yield case(fault, TRAIN, plant)
        for command in MORE_READERS.get(fault, ()):
            yield case(fault, command, plant)
        for command in OF_VERSION_0_1.get(fault, ()):
            yield case(f"0.1: {fault}", command + OLD, plant, root="old")
    for fault, plant in SEEN_BY_VERIFY_ALONE.items():
        yield case(fault, VERIFY, plant)
        yield case(fault, PACK, plant)
    for fault, plant in FOLDER.items():
        yield case(fault, VERIFY, plant)
        yield case(fault, TRAIN, plant)
        yield case(fault, INSPECT, plant)
    for command in (VERIFY, TRAIN, MAPPED, INSPECT, PACK, "cache info tones"):
        yield _case("a whole other cache in this folder", command, _other_cache, "holds another cache")
    for fault in ("gold rolled", "letters changed"):
        yield replace(
            _case(f"a run goes on: {fault}", "train tones.toml", _half_done(CHANGED[fault])),
            may_write=("runs/tones/metrics.jsonl",),  # what lies behind the last checkpoint goes
        )
    yield _case(
        "a shard lost, the run's cache is named", f"{TRAIN} --cache tones", _in_cache(CHANGED["a shard lost"])
    )
    yield from _teachers()


def case(fault: str, command: str, plant: Plant, root: str = "caches") -> Case:
    """A fault of the cache below that root, told as one of the cache."""
    is_known = fault.removeprefix("0.1: ") in TESTED
    told = "cannot be shared" if command in (PACK, PUSH) else "cache verify" if is_known else ""
    return _case(fault, command, _in_cache(plant, root), "" if command.startswith(VERIFY) else told)


def _case(fault: str, command: str, plant: Plant, told: str = "") -> Case:
    return Case(
        group=1,
        fault=fault,
        command=command,
        plant=plant,
        told=told,
        is_listed=command.startswith(VERIFY),
    )


def _sound() -> Iterator[Case]:
    for command, writes in (
        (VERIFY, ()),
        (VERIFY + OLD, ()),
        (TRAIN, ("new/*",)),
        (MAPPED, ("new/*",)),
        (TRAIN + OLD, ("new/*",)),
        (MAPPED + OLD, ("new/*",)),
        (INSPECT, ()),
        (INSPECT + OLD, ()),
        (PACK, ("new.pack",)),
        (PUSH, ("pushed/*",)),
        ("cache info tones", ()),
        ("cache info tones" + OLD, ()),
        ("cache ls", ()),
        ("cache build tones.toml", ()),
        ("cache build tones.toml --dry-run", ()),
        ("train tones.toml", ()),
    ):
        yield Case(group=1, fault="none", command=command, code=0, may_write=writes)


def _teachers() -> Iterator[Case]:
    for asked, settings in OTHER_TEACHERS.items():
        yield Case(group=1, fault=f"the cache is another teacher's: {asked}", command=f"{TRAIN} {settings}")
    for asked in ("a folder that does not exist", "a training", "a folder of the same base name"):
        yield Case(
            group=1,
            fault=f"asked of build: {asked}",
            command=f"cache build tones.toml {OTHER_TEACHERS[asked]}",
            plant=_own_teacher,
        )
    yield Case(group=1, fault="the teacher's weights changed", command=TRAIN, plant=_other_weights)
    yield Case(
        group=1,
        fault="a teacher of runs/teachers that was not trained here",
        plant=_own_teacher,
        command="cache build tones.toml --set teacher.model= --set teacher.name=bert "
        "--set 'teacher_training.text=[\"books.txt\"]'",
    )


def _in_cache(plant: Plant, root: str = "caches") -> Plant:
    return lambda folder: plant(cache_of(folder, root))


def _half_done(plant: Plant) -> Plant:
    """The run as a kill before its last steps would have left it, and a cache changed since."""

    def planted(folder: Path) -> None:
        for name in ("final.pt", "result.json", "checkpoints/step-00000004.pt", "checkpoints/best.json"):
            (folder / "runs/tones" / name).unlink(missing_ok=True)
        plant(cache_of(folder))

    return planted


def _other_cache(folder: Path) -> None:
    path = cache_of(folder)
    shutil.rmtree(path)
    shutil.copytree(cache_of(folder, "other"), path)


def _link_for_folder(path: Path) -> None:
    path.rename(path.parents[path.parents.index(path.parent)] / f"{path.name}-away")
    path.symlink_to(f"{path.name}-away")


def _exchange_receipts(cache: Path) -> None:
    first, second = (cache / f"receipts/{number}.json" for number in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def _own_teacher(folder: Path) -> None:
    """A folder of that name where trained and fetched teachers lie."""
    shutil.copytree(folder / "bert2", folder / "runs/teachers/bert")
    shutil.copytree(folder / "bert2", folder / "runs/teachers/elsewhere--bert")
    (folder / "books.txt").write_text("much text\n")


def _other_weights(folder: Path) -> None:
    shutil.copy(folder / "bert2/model.safetensors", folder / "bert/model.safetensors")
