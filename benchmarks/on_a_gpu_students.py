"""The whole road on one GPU: manifests, teacher, cache, students side by side, what is kept of them."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from on_a_gpu_parts import (
    LOGS,
    OUT,
    PARTS,
    RECEIVED,
    WORK,
    cli,
    json_of,
    run_part,
    run_side_by_side,
    say,
)

HERE = Path(__file__).resolve().parent
CONFIG, STUDENTS = HERE / "on_a_gpu.toml", HERE / "on_a_gpu_students.toml"
RUNS, BASE_MODEL = WORK / "runs", WORK / "base-model"
ENCODER = WORK / "encoder"  # a run folder brought along: the base goes on from it
EAR, HEARD = WORK / "ear", WORK / "heard"  # Whisper's encoder, where one was brought along, and what it hears
EAR_SETTINGS = (
    *("features.mel_bins=256", "features.highest_hz=0.0", "augmentation.speed_factors=[1.0]"),
    *("conformer.num_layers=4", "conformer.taps=[2,3]"),
)
# Students alone multiply float32 in TF32: tests hold float32 to a CPU, a rival in float32 is timed as it is.
IN_TF32 = ["env", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1", sys.executable]
TEACHER = ["--set", f"teacher.model={BASE_MODEL}"]
CONTEXTS = {  # the same teacher on dev, alone and within its chapter: is its pseudo-perplexity lower?
    "cache_of_dev": (),
    "cache_of_dev_with_chapters": ("cache.context=chapter", "cache.context_words=50"),
}
COMPILED, WORTHWHILE = WORK / "compiled_steps.json", 0.7  # of an eager step's time
COMPILER_PATIENCE = 30.0
EVALUATION_SECONDS = 120.0
STARTING_SECONDS = 150.0  # of a student before its first real step, and after its last


def prepare() -> None:
    """Manifests and units; what was brought along is kept where it was made from this very audio."""
    command = cli("data", "prepare", str(CONFIG), "--leave-out-bad", "--json")
    if run_part("prepare", command, 120).code and (RUNS / "prepared").is_dir():
        shutil.move(RUNS / "prepared", RUNS / f"prepared-elsewhere-{int(time.time())}")
        run_part("prepare_anew", command, 120)


def listen(limit: float) -> None:
    """What the ear hears of all speech, once, where there is one; its students hear nothing else."""
    if EAR.is_dir() and not (HEARD / "index.json").is_file():
        command = [sys.executable, str(HERE / "pretrained_ear.py"), "listen", str(CONFIG), "--ear", str(EAR)]
        run_part("listen", [*command, "--store", str(HEARD)], limit)


def teacher(overrides: Sequence[str], limit: float) -> None:
    """Adapt the base model to the books, label the transcripts; no audio is needed."""
    settings = [*TEACHER, *_sets(overrides)]
    run_part("teacher", cli("teacher", "train", str(CONFIG), *settings, "--json"), limit)
    build = cli("cache", "build", str(CONFIG), *settings, "--json")
    # before all splits: a cache is not built anew for one of those it holds
    for name, context in CONTEXTS.items():
        run_part(name, [*build, "--name", name, *_sets(['build.splits=["dev"]', *context])], limit)
    run_part("cache", build, limit)


def compiling(limit: float) -> None:
    """Whether compiled blocks pay here, and their kernels in PyTorch's cache for the students to come."""
    members = [argument for name in ("ctc", "windowed_kd") for argument in ("--member", name)]
    script = [*IN_TF32, "benchmarks/compiled_steps.py", "--config", str(CONFIG), *TEACHER]
    run_part("compiled_steps", [*script, *members, "--steps", "15", "--json", str(COMPILED)], limit)


def _compile_option(members: Sequence[str], patience: float = 0.0) -> list[str]:
    """What is to be set where these members' compiled steps were seen to be faster, and nothing elsewhere."""
    began = time.monotonic()
    while not COMPILED.is_file() and time.monotonic() - began < patience:
        time.sleep(0.2)
    if not COMPILED.is_file():
        return []
    shutil.copy(COMPILED, OUT)
    times = json.loads(COMPILED.read_text())["milliseconds"]
    pays = all(
        name in times and times[name]["compiled"] < WORTHWHILE * times[name]["eager"] for name in members
    )
    say(f"compiled: {'yes' if pays else 'no'}, by {times}")
    return ["--set", "trainer.compile=true"] if pays else []


def students(options: argparse.Namespace) -> None:
    """The base, its branches side by side, then error rates on every split.

    With no seconds for a base, what was brought along is the base.
    """
    table, base = _students(), RUNS / "base" if options.base_seconds else ENCODER
    branches = {name: own for name, own in table.items() if name != "base"}
    common = [*TEACHER, *_sets(EAR_SETTINGS if EAR.is_dir() else ()), *_sets(options.overrides)]
    if options.base_seconds:
        brought = _sets([f"trainer.initial_checkpoint={ENCODER}"]) if ENCODER.is_dir() else []
        _train_base(table["base"], [*common, *brought], options)
    if _was_begun("teacher"):  # what runs beside timed steps is timed with them
        _wait_for("cache", options.patience)
    start = ["--set", f"trainer.initial_checkpoint={base}", *_compile_option(["ctc", "windowed_kd"])]
    commands = {
        name: _student(
            name, RUNS / name, own, [*start, *common], options.branch_seconds, len(branches), options
        )
        for name, own in branches.items()
    }
    meeting = WORK / "meeting-branches"
    run_side_by_side(commands, options.branch_seconds + STARTING_SECONDS, lambda name: _leave(meeting, name))
    collect()  # the machine may be gone before the last word is heard
    splits = [argument for split in _ladder()["evaluate"] for argument in ("--split", split)]
    scoring = {
        f"evaluate_{name}": _heard_so("evaluate", str(RUNS / name), *splits, "--json")
        for name in table
        if (RUNS / name).is_dir()
    }
    run_side_by_side(scoring, EVALUATION_SECONDS)
    collect()


def _train_base(own: Mapping[str, Any], common: Sequence[str], options: argparse.Namespace) -> None:
    compiled = _compile_option(["ctc"], COMPILER_PATIENCE if _was_begun("compiled_steps") else 0.0)
    command = _student("base", RUNS / "base", own, [*common, *compiled], options.base_seconds, 1, options)
    run_side_by_side({"base": command}, options.base_seconds + STARTING_SECONDS)


def _student(
    name: str,
    run: Path,
    own: Mapping[str, Any],
    common: Sequence[str],
    seconds: float,
    peers: int,
    options: argparse.Namespace,
) -> list[str]:
    overrides = [argument for key, value in own.items() for argument in ("--set", f"{key}={_toml(value)}")]
    meeting = WORK / ("meeting-base" if name == "base" else "meeting-branches")
    return [
        *(*IN_TF32, str(HERE / "on_a_gpu_student.py"), "--name", name, "--run-dir", str(run)),
        *("--config", str(CONFIG), *common, *overrides, "--seconds", str(seconds), "--peers", str(peers)),
        *("--timed-seconds", str(options.timed_seconds), "--most-steps", str(options.most_steps)),
        *("--meet", str(meeting), *(("--ear", str(HEARD)) if EAR.is_dir() else ())),
    ]


def _heard_so(*arguments: str) -> list[str]:
    """`bert2ctc ARGUMENTS`, for students of the ear where there is one."""
    if not EAR.is_dir():
        return cli(*arguments)
    return [
        sys.executable,
        str(HERE / "pretrained_ear.py"),
        "student",
        "--store",
        str(HEARD),
        "--",
        *arguments,
    ]


def _leave(meeting: Path, name: str) -> None:
    meeting.mkdir(parents=True, exist_ok=True)
    (meeting / f"{name}.gone").touch()


def _was_begun(part: str) -> bool:
    return (LOGS / f"{part}.log").is_file()


def _wait_for(part: str, patience: float) -> None:
    """Until a part that runs in the background is over."""
    began = time.monotonic()
    while not (PARTS / f"{part}.json").is_file():
        if time.monotonic() - began > patience:
            say(f"{part} is not over after {patience:.0f} s; going on without it")
            return
        time.sleep(0.2)
    say(f"waited {time.monotonic() - began:.1f} s for {part}")


def _ladder() -> dict[str, Any]:
    return tomllib.loads(STUDENTS.read_text(encoding="utf-8"))


def _students() -> dict[str, dict[str, Any]]:
    return dict(_ladder()["students"])


def _toml(value: Any) -> str:
    return json.dumps(value)  # for strings, numbers, booleans and lists the two are one


def _sets(overrides: Sequence[str]) -> list[str]:
    return [argument for override in overrides for argument in ("--set", override)]


def smoke(quick: bool) -> None:
    """Everything that the long runs do, with few steps."""
    tiny = [
        *("teacher_training.max_steps=50", "teacher_training.batch_size=64"),
        *("trainer.batch_seconds=60", "trainer.micro_batch_seconds=60"),
    ]
    if quick:
        tiny[0] = "teacher_training.max_steps=3"
        tiny += [
            "trainer.data_workers=1",
            "cache.dtype=float32",
            "conformer.num_layers=3",
            "conformer.taps=[1,2]",
        ]
    prepare()
    background = threading.Thread(target=teacher, args=(tiny, 600.0))
    background.start()
    few = argparse.Namespace(
        base_seconds=60.0, branch_seconds=60.0, timed_seconds=1.0, most_steps=3 if quick else 30,
        patience=600.0, overrides=tiny,
    )  # fmt: skip
    students(few)
    background.join()


def collect() -> None:
    """Figures of every student as JSON, hypotheses and curves in one archive; no checkpoint."""
    rows = {}
    for name, own in _students().items():
        scores = json_of(f"evaluate_{name}").get("splits", {})
        rows[name] = {"overrides": own, "training": json_of(name), "splits": scores}
    results = {
        "students": rows,
        "teacher": json_of("teacher"),
        "cache": json_of("cache"),
        **{name: json_of(name) for name in CONTEXTS},
        "prepare": json_of("prepare_anew") or json_of("prepare"),
        "received": json.loads(RECEIVED.read_text()) if RECEIVED.is_file() else {},
        "seconds": {path.stem: json.loads(path.read_text())["seconds"] for path in PARTS.glob("*.json")},
        "device": device(),
    }
    (OUT / "results.json").write_text(json.dumps(results, indent=1))
    with tarfile.open(OUT / "runs.tar.xz", "w:xz") as archive:
        for name in rows:
            for pattern in ("*.json", "*.jsonl", "*.txt", "evaluation/*"):
                for path in sorted((RUNS / name).glob(pattern)):
                    archive.add(path, arcname=str(path.relative_to(RUNS)))
    _show(rows)


def _show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    print(
        f"{'student':16} steps  ms/step  " + "  ".join(f"{split} WER CER" for split in _ladder()["evaluate"])
    )
    for name, row in rows.items():
        training = row["training"]
        rates = [f"{100 * s['wer']:.2f} {100 * s['cer']:.2f}" for s in row["splits"].values()]
        step = 1000 * float(training.get("seconds_per_step_timed", 0.0))
        print(f"{name:16} {training.get('steps', 0):5}  {step:7.1f}  {'  '.join(rates)}")


def device() -> str:
    """The GPU, its driver and its memory in words."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"
