"""What `bert2ctc runs` reads from the folders of runs in every state, and what two of them differ in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.config import as_tables, load_config
from pipeline.errors import PipelineError
from pipeline.paths import Roots, roots_from
from pipeline.run_record import claim_run, read_record, recorded_state, state_of
from pipeline.stages.cache import list_teacher_caches
from pipeline.stages.runs import diff_runs, list_runs, run_facts
from student.errors import StudentError
from student.signals import TrainingInterrupted
from student.training.run_folder import RunBusy, is_running, mark_best, metrics, run_lock, step_path

FINGERPRINT = "0123456789abcdef" * 2


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    (tmp_path / "caches" / "names").mkdir(parents=True)
    (tmp_path / "caches" / "names" / "demo").write_text(FINGERPRINT + "\n")
    return roots_from({name: tmp_path / f"{name}s" for name in ("runs", "data", "cache")}, {})


def started(roots: Roots, name: str, *overrides: str) -> tuple[Path, dict[str, Any]]:
    folder = roots.runs / name
    facts = {"prepared": "prepared", "cache": FINGERPRINT}
    return folder, claim_run(folder, as_tables(load_config("demo", overrides)), facts)


def facts_of(folder: Path, roots: Roots) -> Mapping[str, Any]:
    facts = run_facts(folder, roots)
    assert facts is not None
    return facts


def test_a_run_is_running_while_its_lock_is_held_and_stopped_when_its_process_died(roots: Roots) -> None:
    folder, record = started(roots, "one")
    assert state_of(folder, record) == "stopped" and not is_running(folder)
    with run_lock(folder):
        assert is_running(folder)
        assert facts_of(folder, roots)["state"] == "running"
    assert facts_of(folder, roots)["state"] == "stopped"


def test_asking_does_not_take_the_lock_away(roots: Roots) -> None:
    folder, _ = started(roots, "one")
    with run_lock(folder):
        is_running(folder)
        with pytest.raises(RunBusy, match="is training it"), run_lock(folder):
            pass


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (StudentError("5 steps\nin a row"), "failed", "5 steps in a row"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
        (TrainingInterrupted("saved", 75), "stopped", ""),
        (KeyboardInterrupt(), "stopped", ""),
    ],
)
def test_how_a_start_ended_is_kept_and_forgotten_by_the_next(
    roots: Roots, error: BaseException, state: str, reason: str
) -> None:
    folder, record = started(roots, "one")
    with pytest.raises(type(error)), recorded_state(folder, record):
        raise error
    facts = facts_of(folder, roots)
    assert (facts["state"], facts["error"]) == (state, reason)
    again = read_record(folder)
    assert again is not None
    with recorded_state(folder, again):
        assert facts_of(folder, roots)["error"] == ""


def test_a_second_process_does_not_mark_the_first_one_s_run_as_failed(roots: Roots) -> None:
    folder, record = started(roots, "one")
    before = (folder / "run.json").read_bytes()
    with pytest.raises(RunBusy), recorded_state(folder, record):
        raise RunBusy("process 7 is training it")
    assert (folder / "run.json").read_bytes() == before


def test_step_best_rate_and_cache_are_read_while_it_trains(roots: Roots) -> None:
    folder, _ = started(roots, "ladder/one", "trainer.max_steps=1900")
    entries = [{"kind": kind, "step": step} for step in (398, 399, 400) for kind in ("train",)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries) + '{"kind": "tr')
    step_path(folder, 300).parent.mkdir()
    step_path(folder, 300).touch()
    mark_best(folder, 300, 0.25)
    facts = facts_of(folder, roots)
    assert (facts["run"], facts["step"], facts["max_steps"]) == ("ladder/one", 400, 1900)
    assert (facts["best_wer"], facts["best_step"]) == (0.25, 300)
    assert (facts["cache"], facts["cache_names"]) == (FINGERPRINT, ["demo"])


def test_runs_and_students_of_experiments_are_listed_and_nothing_else(roots: Roots) -> None:
    for name in ("b", "a", "ladder/ctc"):
        started(roots, name)
    claim_run(roots.runs / "teacher", {"data": {}}, {"result": {}})
    result = list_runs(roots).result
    assert [run["run"] for run in result["runs"]] == ["a", "b", "ladder/ctc"]
    assert "train one" in str(list_runs(roots_from({"runs": roots.runs / "none"}, {})).lines[0])


def test_two_runs_differ_in_what_was_set_otherwise(roots: Roots) -> None:
    one, _ = started(roots, "one")
    other, _ = started(roots, "other", "trainer.seed=2", "conformer.taps=[3]")
    result = diff_runs(one, other, roots).result
    assert result["settings"] == {"conformer.taps": [[2, 3], [3]], "trainer.seed": [1, 2]}
    assert result["other"] == {}
    assert diff_runs(one, one, roots).lines[-1] == "no setting differs"
    with pytest.raises(PipelineError, match="runs ls"):
        diff_runs(one, roots.runs / "none", roots)


def test_a_run_of_older_code_lacks_new_keys_and_still_equals_its_config(roots: Roots) -> None:
    folder, record = started(roots, "one")
    for key in ("initial_checkpoint", "early_stop_evaluations", "keep_best_checkpoints"):
        del record["config"]["trainer"][key]
    (folder / "run.json").write_text(json.dumps(record))
    again = claim_run(folder, as_tables(load_config("demo")), {})
    assert "initial_checkpoint" not in again["config"]["trainer"]
    with pytest.raises(PipelineError, match="early_stop_evaluations: 0 -> 3"):
        claim_run(folder, as_tables(load_config("demo", ["trainer.early_stop_evaluations=3"])), {})


def test_error_rates_are_shown_in_per_cent(roots: Roots) -> None:
    for name, step, rate in (("one", 1200, 0.25), ("other", 7, 0.03125)):
        folder, _ = started(roots, name, f"trainer.seed={step}")
        step_path(folder, step).parent.mkdir()
        step_path(folder, step).touch()
        mark_best(folder, step, rate)
    options = ["--runs-root", str(roots.runs), "--cache-root", str(roots.cache)]
    shown = CliRunner().invoke(main, ["runs", "diff", "one", "other", *options]).stdout.splitlines()
    assert [line.split() for line in shown[:4]] == [
        ["one", "other"],
        ["state", "stopped", "stopped"],
        ["step", "1,200", "7"],
        ["best", "WER", "%", "25.00", "3.12"],
    ]


def test_the_commands_speak_json_and_tables(roots: Roots) -> None:
    started(roots, "one")
    started(roots, "other", "trainer.seed=2")
    options = ["--runs-root", str(roots.runs), "--cache-root", str(roots.cache)]
    reported = CliRunner().invoke(main, ["runs", "diff", "one", "other", "--json", *options])
    assert json.loads(reported.stdout)["settings"] == {"trainer.seed": [1, 2]}
    shown = CliRunner().invoke(main, ["runs", "ls", *options])
    assert shown.exit_code == 0 and "0123456789ab (demo)" in shown.stdout
    assert CliRunner().invoke(main, ["runs", "diff", "one", "none", *options]).exit_code == 1


DAMAGES: dict[str, tuple[str, bytes | None]] = {
    "a record that is no JSON": ("run.json", b"{"),
    "a record of another kind": ("run.json", b'{"prepared": "a", "config": {"trainer": 5}}'),
    "a record without steps": ("run.json", b'{"prepared": "a", "config": {"data": {"splits": {}}}}'),
    "a pipe for a record": ("run.json", None),
    "a best step that is none": ("checkpoints/best.json", b'{"step": "one", "dev_wer": 0.5}'),
    "a pipe for the best step": ("checkpoints/best.json", None),
    "a pipe for the metrics": ("metrics.jsonl", None),
    "metrics of other keys": ("metrics.jsonl", b'{"stp": 1}\n{"step": 1}\n'),
    "metrics that are no figures": (
        "metrics.jsonl",
        b'{"step": 1, "kind": "dev", "wer": "low"}\n{"step": 2, "kind": "dev"}\n',
    ),
    "a pipe for the lock": (".lock", None),
}


@pytest.mark.timeout(60)
def test_a_damaged_run_stands_in_the_list_with_its_fault_and_the_others_too(roots: Roots) -> None:
    started(roots, "sound")
    for number, (name, content) in enumerate(DAMAGES.values()):
        path = started(roots, f"damaged-{number:02d}")[0] / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path) if content is None else path.write_bytes(content)
    os.mkfifo(roots.cache / "names" / "pipe")
    (roots.cache / "names" / "foreign").write_bytes(b"\xff")
    (roots.cache / "names" / "folder").mkdir()
    report = list_runs(roots)
    states = {facts["run"]: facts["state"] for facts in report.result["runs"]}
    assert states.pop("sound") == "stopped"
    assert set(states.values()) == {"damaged"} and len(states) == len(DAMAGES)
    for facts, (name, _) in zip(report.result["runs"], DAMAGES.values(), strict=False):
        assert name.rpartition("/")[2] in facts["error"] and "\n" not in facts["error"]
    lines = [line for line in report.lines if isinstance(line, str)]
    assert len(lines) == len(DAMAGES) + 3  # and the three names
    json.dumps(report.result)
    for number in range(len(DAMAGES)):
        with pytest.raises((PipelineError, StudentError)):
            diff_runs(roots.runs / "sound", roots.runs / f"damaged-{number:02d}", roots)


def test_damaged_names_stand_in_the_list_of_caches(roots: Roots) -> None:
    os.mkfifo(roots.cache / "names" / "pipe")
    report = list_teacher_caches(roots)
    assert [line for line in report.lines if "is a pipe" in str(line)]
    assert len(report.result["damaged_names"]) == 1


def test_a_half_written_last_line_of_metrics_is_left_alone(roots: Roots) -> None:
    folder, _ = started(roots, "one")
    whole = '{"step": 1, "kind": "dev", "wer": 0.5}\n{"step": 2, "kind": "dev", "wer": null}\n'
    (folder / "metrics.jsonl").write_text(whole + '{"step": 3, "ki')
    assert [entry["step"] for entry in metrics(folder)] == [1, 2]
    (folder / "metrics.jsonl").write_text('{"step": 3, "ki\n' + whole)
    with pytest.raises(StudentError, match="line 1 is not JSON"):
        metrics(folder)
