"""What benchmarks/on_a_gpu.sh does, part by part; see there."""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from on_a_gpu_parts import (
    LOGS,
    OUT,
    PARTS,
    WORK,
    cli,
    end_with_all,
    json_of,
    run_part,
    run_side_by_side,
    say,
    summarise,
)

HERE = Path(__file__).resolve().parent
CONFIG, STUDENTS = HERE / "on_a_gpu.toml", HERE / "on_a_gpu_students.toml"
DATA, RUNS, BASE_MODEL = WORK / "data", WORK / "runs", WORK / "base-model"
TEACHER = ["--set", f"teacher.model={BASE_MODEL}"]
RECEIVED = WORK / "received.json"
COMPILED, WORTHWHILE = WORK / "compiled_steps.json", 0.8  # of an eager step's time
COMPILER_PATIENCE = 30.0
EVALUATION_SECONDS = 120.0
SMOKE_SECONDS, LEAST_SECONDS = 110.0, 25.0
STARTING_SECONDS = 150.0  # of a student before its first real step, and after its last


# ---- what is brought along


def receive(folder: Path) -> None:
    """Unpack every archive of the folder below WORK; speech becomes 16-bit WAV, which is read in no time."""
    started, seconds = time.monotonic(), 0.0
    for path in sorted(folder.glob("*.tar*")):
        with tarfile.open(path) as archive:
            if path.name.startswith("speech"):
                seconds += _receive_speech(archive)
            else:
                archive.extractall(WORK, filter="data")
        say(f"{path.name} received")
    _note(
        RECEIVED, {folder.name: {"seconds": round(time.monotonic() - started, 1), "speech_seconds": seconds}}
    )


def _receive_speech(archive: tarfile.TarFile) -> float:
    with multiprocessing.Pool() as pool:
        return sum(pool.imap_unordered(_store, _files_of(archive), chunksize=8))


def _files_of(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        stream = archive.extractfile(member)
        if stream is not None:
            yield member.name, stream.read()


def _store(item: tuple[str, bytes]) -> float:
    """Write one file below the data root; the seconds of audio in it.

    Samples are rounded as the trainer rounds what it decodes: training hears the same from either file.
    """
    path, data = DATA / item[0], item[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".opus":
        path.write_bytes(data)
        return 0.0
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    rounded = np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16)
    soundfile.write(path.with_suffix(".wav"), rounded, rate, subtype="PCM_16")
    return len(samples) / float(rate)


def _note(path: Path, facts: Mapping[str, Any]) -> None:
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, **facts}, indent=1))


# ---- figures


def figures(quick: bool, seconds: float) -> None:
    """Teacher rows a second at BERT-base size, and steps of librispeech-100's student, eager and compiled.

    seconds : for all of them; what could not end within them is not begun
    """
    deadline = time.monotonic() + seconds
    for name, limit, command in _benchmarks(quick):
        left = deadline - time.monotonic()
        if left < LEAST_SECONDS:
            say(f"{name} left out: {left:.0f} s are left")
        else:
            run_part(name, command, min(limit, left))
    path = OUT / "teacher_throughput.json"
    if path.is_file():
        minutes = 10.5e6 / json.loads(path.read_text())["rows_per_second"]["ours"] / 60
        say(f"the roughly 10.5 million rows of LibriSpeech-960 would take {minutes:.1f} min")


def _benchmarks(quick: bool) -> list[tuple[str, float, list[str]]]:
    """Name, limit in seconds, and command of each benchmark."""
    texts = ["--text", str(WORK / "transcripts.txt"), "--vocabulary", str(DATA / "bert-vocab/vocab.txt")]
    teacher_size = ["--size", "base", "--device", "cuda", "--transcripts", "200", "--rounds", "2"]
    step_size = [
        *("--config", "librispeech-100", "--device", "cuda", "--pieces", "10000"),
        *("--batches", "2", "--rounds", "3"),
    ]
    if quick:
        teacher_size = ["--size", "small", "--quick"]
        step_size = ["--config", "librispeech-mini", "--pieces", "200", "--quick"]

    def command(script: str, name: str, options: Sequence[str]) -> list[str]:
        return [sys.executable, f"benchmarks/{script}.py", "--json", str(OUT / f"{name}.json"), *options]

    compiled = command("train_step", "train_step_compile", [*step_size, "--compile"])
    return [
        ("teacher_throughput", 60, command("teacher_throughput", "teacher_throughput", texts + teacher_size)),
        ("train_step", 60, command("train_step", "train_step", step_size)),
        ("train_step_compile", 90, compiled),
    ]


def _gpu_tests(chosen: str) -> list[str]:
    """The tests that only a GPU runs, each named as it ends."""
    options = ["-m", "gpu", "-k", chosen, "-v", "--tb=short", "-W", "ignore", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", "tests/test_on_a_gpu.py", *options]


def everything(quick: bool, seconds: float) -> None:
    """One look at all of it: GPU tests beside a smoke of the whole road, then the figures, alone."""
    began, arguments = time.monotonic(), ["--quick"] if quick else []
    together = {
        "gpu_tests": _gpu_tests("not compiled"),
        "gpu_tests_compiled": _gpu_tests("compiled"),
        "smoke": [sys.executable, __file__, "smoke", *arguments],
    }
    run_side_by_side(together, min(SMOKE_SECONDS, seconds) if not quick else seconds)
    figures(quick, seconds - (time.monotonic() - began))
    summarise()


# ---- the whole road


def prepare() -> None:
    """Manifests and units; what was brought along is kept where it was made from this very audio."""
    command = cli("data", "prepare", str(CONFIG), "--leave-out-bad", "--json")
    if run_part("prepare", command, 120).code and (RUNS / "prepared").is_dir():
        shutil.move(RUNS / "prepared", RUNS / f"prepared-elsewhere-{int(time.time())}")
        run_part("prepare_anew", command, 120)


def teacher(overrides: Sequence[str], limit: float) -> None:
    """Adapt the base model to the books, label the transcripts; no audio is needed."""
    settings = [*TEACHER, *_sets(overrides)]
    run_part("teacher", cli("teacher", "train", str(CONFIG), *settings, "--json"), limit)
    run_part("cache", cli("cache", "build", str(CONFIG), *settings, "--json"), limit)


def compiling(limit: float) -> None:
    """Whether compiled blocks pay here, and their kernels in PyTorch's cache for the students to come."""
    members = [argument for name in ("ctc", "windowed_kd") for argument in ("--member", name)]
    script = [sys.executable, "benchmarks/compiled_steps.py", "--config", str(CONFIG), *TEACHER]
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
    """The base, then its branches side by side, then error rates of all on every split of the table."""
    table = _students()
    base, branches = RUNS / "base", {name: own for name, own in table.items() if name != "base"}
    common = [*TEACHER, *_sets(options.overrides)]
    is_compiling = (LOGS / "compiled_steps.log").is_file()
    compiled = _compile_option(["ctc"], COMPILER_PATIENCE if is_compiling else 0.0)
    command = _student("base", base, table["base"], [*common, *compiled], options.base_seconds, 1, options)
    run_side_by_side({"base": command}, options.base_seconds + STARTING_SECONDS)
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
    splits = [argument for split in _ladder()["evaluate"] for argument in ("--split", split)]
    scoring = {
        f"evaluate_{name}": cli("evaluate", str(RUNS / name), *splits, "--json")
        for name in table
        if (RUNS / name).is_dir()
    }
    run_side_by_side(scoring, EVALUATION_SECONDS)
    collect()


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
        *(sys.executable, str(HERE / "on_a_gpu_student.py"), "--name", name, "--run-dir", str(run)),
        *("--config", str(CONFIG), *common, *overrides, "--seconds", str(seconds), "--peers", str(peers)),
        *("--timed-seconds", str(options.timed_seconds), "--most-steps", str(options.most_steps)),
        *("--meet", str(meeting)),
    ]


def _leave(meeting: Path, name: str) -> None:
    meeting.mkdir(parents=True, exist_ok=True)
    (meeting / f"{name}.gone").touch()


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
    import tomllib

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


# ---- what is kept


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
        "prepare": json_of("prepare_anew") or json_of("prepare"),
        "received": json.loads(RECEIVED.read_text()) if RECEIVED.is_file() else {},
        "seconds": {path.stem: json.loads(path.read_text())["seconds"] for path in PARTS.glob("*.json")},
        "device": _device(),
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
        told = [f"{100 * s['wer']:.2f} {100 * s['cer']:.2f}" for s in row["splits"].values()]
        step = 1000 * float(training.get("seconds_per_step_timed", 0.0))
        print(f"{name:16} {training.get('steps', 0):5}  {step:7.1f}  {'  '.join(told)}")


def _device() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"


def main() -> None:
    """One command of on_a_gpu.sh."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("receive").add_argument("folder", type=Path)
    looks = [commands.add_parser(name) for name in ("everything", "figures", "smoke")]
    for look in looks:
        look.add_argument("--quick", action="store_true", help="on a CPU, as a rehearsal")
    for look in looks[:2]:
        look.add_argument("--seconds", type=float, default=210.0, help="for all of it")
    background, compiler = commands.add_parser("teacher"), commands.add_parser("compile")
    for command in (background, compiler):
        command.add_argument("--wait", action="store_true", help="in the foreground")
        command.add_argument("--limit", type=float, default=300.0, help="seconds of each of its parts")
    training = commands.add_parser("students")
    training.add_argument("--base-seconds", type=float, default=170.0)
    training.add_argument("--branch-seconds", type=float, default=130.0)
    training.add_argument("--timed-seconds", type=float, default=8.0)
    training.add_argument("--most-steps", type=int, default=10**9)
    training.add_argument("--patience", type=float, default=120.0, help="seconds to wait for the cache")
    for command in (background, training):
        command.add_argument("--set", action="append", default=[], dest="overrides")
    commands.add_parser("summary")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, end_with_all)
    OUT.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    if options.command == "receive":
        receive(options.folder)
    elif options.command in ("teacher", "compile") and not options.wait:
        arguments = [sys.executable, __file__, *sys.argv[1:], "--wait"]
        with (LOGS / "background.log").open("ab") as log:
            subprocess.Popen(
                arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
    elif options.command == "teacher":
        teacher(options.overrides, options.limit)
    elif options.command == "compile":
        compiling(options.limit)
    elif options.command == "students":
        prepare()
        students(options)
    elif options.command == "summary":
        print(_device())
        summarise()
    elif options.command == "smoke":
        smoke(options.quick)
    else:
        {"everything": everything, "figures": figures}[options.command](options.quick, options.seconds)


if __name__ == "__main__":
    main()
