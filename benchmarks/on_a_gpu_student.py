r"""One student for a budget of seconds: timed first, beside those that run beside it, then trained.

    python benchmarks/on_a_gpu_student.py --name ctc --run-dir RUN --config C.toml --set a.b=1 \
        --seconds 120 --peers 3 --meet FOLDER

Its schedule ends where the budget ends, so that nothing is cut off; all of one meeting take equal steps.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.config import load_config
from pipeline.paths import roots_from
from pipeline.stages.train import train_student, training_job
from student.data.training_data import TrainingJob, load_training_data
from student.training.log import RunLog
from student.training.run import Run

WARM_UP_STEPS, FEWEST_TIMED_STEPS = 10, 5
WARM_UP_FRACTION = 0.1  # of the steps, for the learning rate
PATIENCE_SECONDS = 240.0


class Meeting:
    """Students that wait for each other, by files; nobody waits for one of whom there is a file NAME.gone."""

    def __init__(self, folder: Path, name: str, num_peers: int) -> None:
        self.folder, self.name, self.num_peers = folder, name, num_peers
        folder.mkdir(parents=True, exist_ok=True)

    def all_say(self, word: str, value: float) -> list[float]:
        """Say it, and return what everybody said."""
        mine = self.folder / f"{self.name}.{word}"
        mine.with_suffix(".partial").write_text(json.dumps(value))
        mine.with_suffix(".partial").replace(mine)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            said = {path.stem: path for path in self.folder.glob(f"*.{word}")}
            gone = {path.stem for path in self.folder.glob("*.gone")} - said.keys()
            if len(said) + len(gone) >= self.num_peers or time.monotonic() > deadline:
                return [float(json.loads(path.read_text())) for path in said.values()]
            time.sleep(0.05)


def seconds_per_step(job: TrainingJob, meeting: Meeting, timed_seconds: float) -> float:
    """Of real steps, while all students of the meeting take theirs; nothing of it is kept."""
    with tempfile.TemporaryDirectory() as scratch, RunLog(Path(scratch), 0) as log:
        elsewhere = replace(job, run_dir=Path(scratch))
        run = Run(elsewhere, load_training_data(elsewhere, None, log.say), log, None)
        steps = run.begin()
        for _ in range(WARM_UP_STEPS):
            run.train_step(steps)
        meeting.all_say("ready", 0.0)
        started, count = time.monotonic(), 0
        while time.monotonic() - started < timed_seconds or count < FEWEST_TIMED_STEPS:
            run.train_step(steps)
            count += 1
        taken = time.monotonic() - started
        steps.close()  # ends its reading processes
    return taken / count


def main() -> None:
    """Time, agree, train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--timed-seconds", type=float, default=8.0)
    parser.add_argument("--most-steps", type=int, default=10**9)
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--meet", type=Path, required=True)
    parser.add_argument("--ear", type=Path, help="a store of pretrained_ear.py, to hear by")
    options = parser.parse_args()
    if options.ear:
        from pretrained_ear import install

        install(options.ear)
    roots, started = roots_from({}), time.monotonic()
    job = training_job(load_config(options.config, options.overrides), roots, options.run_dir, "")
    meeting = Meeting(options.meet, options.name, options.peers)
    mine = seconds_per_step(job, meeting, options.timed_seconds)
    slowest = max(meeting.all_say("seconds", mine))
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    max_steps = max(2, min(int(options.seconds / slowest), options.most_steps))
    print(
        f"{1000 * mine:.1f} ms a step, {1000 * slowest:.1f} ms the slowest beside it: {max_steps} steps; "
        f"ready after {time.monotonic() - started:.1f} s",
        file=sys.stderr,
    )
    schedule = [
        f"trainer.max_steps={max_steps}",
        f"trainer.warmup_steps={max(1, round(WARM_UP_FRACTION * max_steps))}",
    ]
    config = load_config(options.config, [*options.overrides, *schedule])
    began = time.monotonic()
    report = train_student(config, roots, options.run_dir, "")
    times = {
        "seconds_per_step_timed": mine,
        "seconds_per_step_slowest": slowest,
        "seconds_until_training": round(began - started, 1),
        "seconds_training": round(time.monotonic() - began, 1),
    }
    print(json.dumps({**report.result, **times}, default=str))


if __name__ == "__main__":
    main()
