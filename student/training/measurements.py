"""What a run measures between its steps, on its first rank: dev, and gradients on the probe batch."""

from __future__ import annotations

from collections.abc import Callable

from student.data.phase import phase_at
from student.data.training_data import TrainingData, TrainingJob
from student.training.distributed import Ranks
from student.training.log import RunLog
from student.training.optimisation.step import Optimisation
from student.training.report import deafness_warning
from student.training.run_folder import best_step, dev_rates, dev_wers, mark_best, metrics
from student.training.validation import dev_figures, has_stopped_improving, is_among_best


class Measurements:
    """Figures of a run by step, each measured once, also where the run is stopped in between.

    dev_wer : of the last evaluation, None before the first
    totals : of the run; what the probe batch takes is added to its probe_seconds
    """

    def __init__(
        self,
        job: TrainingJob,
        data: TrainingData,
        log: RunLog,
        optimisation: Optimisation,
        totals: dict[str, float],
        ranks: Ranks,
    ) -> None:
        self._job, self._config, self._data, self._log = job, job.config, data, log
        self._optimisation, self._totals, self._ranks = optimisation, totals, ranks
        self.dev_wer: float | None = None
        self._evaluated_step = self._probed_step = -1

    def go_on_from(self, step: int) -> None:
        """What metrics.jsonl holds of a step is not measured again."""
        measured = dev_wers(self._job.run_dir)
        if step in measured:
            self._evaluated_step, self.dev_wer = step, measured[step]
        if any(entry["kind"] == "gradient" and entry["step"] == step for entry in metrics(self._job.run_dir)):
            self._probed_step = step
        self._judge_word_masks()

    def take_if_due(self, step: int, save: Callable[[], None]) -> None:
        """Whatever the config wants measured after so many steps; `save` keeps a new best checkpoint."""
        if self._optimisation.probe.is_due(step):
            self._probe(step)
        if step and step % self._config.trainer.evaluate_every_steps == 0:
            self._evaluate(step, save)
            self._judge_word_masks()

    def take_last(self, step: int, save: Callable[[], None]) -> None:
        """All measurements, of the finished run."""
        if self._optimisation.probe.is_on(step):
            self._probe(step)
        self._evaluate(step, save)

    def stops_early(self) -> bool:
        """Decided from metrics.jsonl, so that a resumed run stops where an uninterrupted one does."""
        patience = self._config.trainer.early_stop_evaluations
        if not patience:
            return False
        wers = list(dev_wers(self._job.run_dir).values()) if self._ranks.is_first else []
        return bool(self._ranks.largest(int(has_stopped_improving(wers, patience))))

    def _evaluate(self, step: int, save: Callable[[], None]) -> None:
        """Measure the dev split; a new best WER is saved at once."""
        if self._evaluated_step == step:
            return
        self._evaluated_step = step
        if self._data.dev is None or not self._ranks.is_first:
            return
        optimisation, phase = self._optimisation, phase_at(self._config, step - 1)  # the last that trained
        dtype = optimisation.precision.dtype
        with optimisation.average.applied():
            figures = dev_figures(
                optimisation.model, self._data.dev, self._data.units, self._config, dtype, phase
            )
        self._log.figures(step, "dev", figures)
        shown = " ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self._log.say(f"step {step} dev: {shown}")
        if warning := deafness_warning(figures):
            self._log.say(warning)
        self.dev_wer = figures["wer"]
        run_dir, trainer = self._job.run_dir, self._config.trainer
        best = best_step(run_dir)
        if best is None or self.dev_wer < best[1]:
            save()
            mark_best(run_dir, step, self.dev_wer)
        elif is_among_best(step, dev_wers(run_dir), trainer.keep_best_checkpoints):
            save()

    def _judge_word_masks(self) -> None:
        """Time masks as long as words, from the first low enough CER on; for every rank.

        Decided from metrics.jsonl, so that a resumed run has them where an uninterrupted one has.
        """
        highest, optimisation = self._config.augmentation.word_masks_below_cer, self._optimisation
        if not highest or optimisation.has_word_masks:
            return
        rates = dev_rates(self._job.run_dir, "cer") if self._ranks.is_first else {}
        is_ready = any(rate <= highest for rate in rates.values())
        optimisation.has_word_masks = bool(self._ranks.largest(int(is_ready)))
        if optimisation.has_word_masks:
            self._log.say(f"dev CER of {highest:g} or less: time masks are as long as words from here on")

    def _probe(self, step: int) -> None:
        """The parts' gradients on the probe batch."""
        if self._probed_step == step:
            return
        self._probed_step = step
        if self._ranks.is_first:
            probed = self._optimisation.probe.measure(step, self._optimisation.balance.scale)
            self._totals["probe_seconds"] += probed.seconds
            self._log.figures(step, "gradient", probed.figures)
