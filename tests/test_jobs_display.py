"""What several processes say on a terminal: progress as a bar each, every other line above the bars."""

from __future__ import annotations

import io

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from pipeline.jobs.display import Bars


def test_progress_moves_a_bar_and_lines_stay_above() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, highlight=False)
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bars = Bars(progress)
        bars.tell("ctc", "training: 400/1,200 steps, 30 s elapsed, 60 s left  loss 1.5")
        bars.tell("kd", "training: 40/1,200 steps, 30 s elapsed, 600 s left")
        bars.tell("ctc", "step 400 dev: [wer] 0.5000")
        bars.tell("kd", "")
        (task,) = progress.tasks
        assert (task.description, task.completed, task.total) == ("ctc: training", 400, 1200)
        assert task.fields["note"] == "60 s left  loss 1.5"
    assert "ctc: step 400 dev: [wer] 0.5000\n" in stream.getvalue().replace("\r\n", "\n")
