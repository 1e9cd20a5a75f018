"""Trains a student from manifests and a teacher cache; a run that stops anywhere goes on as if it had not."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace

from student.data.training_data import TrainingJob, load_training_data
from student.errors import StudentError
from student.signals import TrainingInterrupted, stop_on_signals
from student.training.checkpoint import Checkpoint, best_step, load_checkpoint, saved_steps, step_path
from student.training.distributed import ALONE, Ranks
from student.training.log import RunLog, SilentLog
from student.training.run import Run
from student.training.run_cache import note_cache, require_same_cache
from student.training.run_folder import ANOTHER_RUN, RunBusy, TrainingResult, read_result, run_lock
from teacher_cache.common.differences import differences, listed, phrases

__all__ = ["RunBusy", "TrainingInterrupted", "TrainingJob", "TrainingResult", "read_result", "train"]


def train(job: TrainingJob, ranks: Ranks = ALONE) -> TrainingResult:
    """Train until `max_steps` or an early stop, going on from the run folder's last checkpoint, if any.

    Writes checkpoints/, tensorboard/, metrics.jsonl, log.txt and, at the end, final.pt and result.json.
    ranks : this process among those that train together; all of them call this, the first one writes
    Raises TrainingInterrupted after SIGTERM, SIGUSR1 or Ctrl-C, with a checkpoint of the step reached;
    StudentError or CacheError where inputs do not fit each other, or where steps keep failing.
    """
    with ExitStack() as stack:
        if ranks.is_first:
            stack.enter_context(run_lock(job.run_dir))
        stop = stack.enter_context(stop_on_signals())
        finished = read_result(job.run_dir)
        if finished is not None:
            return finished
        steps = saved_steps(job.run_dir)
        checkpoint = load_checkpoint(step_path(job.run_dir, steps[-1])) if steps else None
        best_step(job.run_dir)  # what is damaged of it is told before a step, not at the next evaluation
        if job.dev_manifest is None:
            _refuse_what_dev_decides(job)
        if checkpoint is not None:
            _refuse_another_config(job, checkpoint)
        ranks.wait()  # every rank has read the folder before the first one writes to it
        done = checkpoint.step if checkpoint else -1  # what was measured before a first step goes too
        log = stack.enter_context(RunLog(job.run_dir, done) if ranks.is_first else SilentLog())
        data = load_training_data(job, checkpoint.pieces if checkpoint else None, log.say)
        manifest = data.train.labels.reader.manifest if data.train.labels else None
        if checkpoint is not None:
            began = checkpoint.cache_fingerprint
            require_same_cache(job.run_dir, began, data.cache_fingerprint, manifest)
        elif manifest is not None and ranks.is_first:
            note_cache(job.run_dir, manifest)
        run = Run(job, data, log, checkpoint, ranks)
        run.train(stop)
        if ranks.is_first:
            run.finish()
        ranks.wait()
        result = read_result(job.run_dir)
        assert result is not None
        return replace(result, already_finished=False)


def _refuse_what_dev_decides(job: TrainingJob) -> None:
    wants_dev = {
        "trainer.early_stop_evaluations": job.config.trainer.early_stop_evaluations,
        "augmentation.word_masks_below_cer": job.config.augmentation.word_masks_below_cer,
    }
    for key, value in wants_dev.items():
        if value:
            raise StudentError(f"{key} needs a dev split; name one in data.splits")


def _refuse_another_config(job: TrainingJob, checkpoint: Checkpoint) -> None:
    found = differences(asdict(checkpoint.config), asdict(job.config))
    if found:
        differing = listed(phrases(found, "{key} {old!r}, now {new!r}"))
        raise StudentError(
            f"{job.run_dir}: began with another config ({differing}); start a new run with {ANOTHER_RUN}"
        )
