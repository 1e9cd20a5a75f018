"""Progress without a terminal is a plain line at most every 30 seconds, and one at the end."""

from __future__ import annotations

import pytest

import teacher_cache.common.progress
from teacher_cache.common.progress import PlainLine, progress, read_plain_line


def test_plain_lines_are_rare_and_say_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, *(10.0 * step for step in range(1, 11))])
    monkeypatch.setattr(teacher_cache.common.progress.time, "monotonic", lambda: next(clock))
    with progress("scoring", total=10, unit="rows") as advance:
        for _ in range(10):
            advance(1, note="loss 1.5")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "scoring: 3/10 rows",
        "scoring: 6/10 rows",
        "scoring: 9/10 rows",
        "scoring: 10/10 rows",
    ]
    assert "70 s left" in lines[0]
    assert lines[-1].endswith("loss 1.5")
    assert read_plain_line(lines[0]) == PlainLine("scoring", 3, 10, "70 s left  loss 1.5")
    assert read_plain_line("step 3 dev: wer 0.1/0.2, 3 s elapsed") is None
