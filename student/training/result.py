"""How a run ended: the one thing that says it is finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from student.training.run_folder import FINAL_NAME, RESULT_NAME
from teacher_cache.common.files import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """How a run ended; `result.json` in its folder.

    dev_wer, best_dev_wer : 0 and up, None without a dev manifest     skipped_steps : NaN or infinite
    seconds : spent training, over every start of the run     audio_seconds : heard, padding left out
    data_wait_seconds : of `seconds`, spent waiting for audio
    initial_checkpoint : what the weights began from, "" where they began at random
    stopped_early : before max_steps, because trainer.early_stop_evaluations brought no better dev WER
    already_finished : nothing was done, because the run had ended before
    """

    steps: int
    epoch: int
    dev_wer: float | None
    best_dev_wer: float | None
    best_step: int | None
    skipped_steps: int
    left_out_utterances: int
    padding_fraction: float
    seconds: float
    audio_seconds: float
    data_wait_seconds: float
    parameters: int
    inference_parameters: int
    cache_fingerprint: str
    device: str
    precision: str
    initial_checkpoint: str = ""
    stopped_early: bool = False
    already_finished: bool = False


def read_result(run_dir: Path) -> TrainingResult | None:
    """The result of a run that has ended, None while it has not."""
    path = run_dir / RESULT_NAME
    if not path.is_file() or not (run_dir / FINAL_NAME).is_file():
        return None
    return TrainingResult(**json.loads(path.read_text(encoding="utf-8")) | {"already_finished": True})


def write_result(run_dir: Path, result: TrainingResult) -> None:
    """Say that the run has ended; final.pt must have been written."""
    write_json(run_dir / RESULT_NAME, asdict(result))
