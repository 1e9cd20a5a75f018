"""Commands side by side: as many as there are places, each at its own; one failure or signal stops all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import processes
from pipeline.jobs import places as places_module
from pipeline.jobs.places import Place, places_for
from pipeline.jobs.pool import Later, run_side_by_side
from pipeline.processes import CommandFailed

WAITS = "trap 'exit 75' TERM; while true; do sleep 0.02; done"
TWO = [Place(), Place()]
Program = Callable[[str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script in the place of Python; "$3" and "$4" are a command's first words."""

    def put(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(path))

    return put


def test_as_many_at_a_time_as_places_and_the_commands_of_a_chain_in_order(
    tmp_path: Path, program: Program
) -> None:
    log = tmp_path / "log"
    program(f'echo "+ $3 $4" >> {log}; sleep 0.1; echo "- $3 $4" >> {log}; echo "{{\\"did\\": \\"$3 $4\\"}}"')
    chains = {name: [("train", name), ("evaluate", name)] for name in ("a", "b", "c")}
    results = run_side_by_side(chains, TWO)
    assert results == {name: [{"did": f"train {name}"}, {"did": f"evaluate {name}"}] for name in chains}
    running, most = 0, 0
    lines = log.read_text(encoding="utf-8").splitlines()
    for line in lines:
        running += 1 if line[0] == "+" else -1
        most = max(most, running)
    assert most == 2 and len(lines) == 12


def test_a_chain_waits_for_the_one_that_it_comes_after(tmp_path: Path, program: Program) -> None:
    log = tmp_path / "log"
    program(f'echo "+ $4" >> {log}; [ $4 = base ] && sleep 0.4; echo "- $4" >> {log}; echo "{{}}"')
    chains = {name: [("train", name)] for name in ("base", "first", "second", "alone")}
    after = {"first": ["base"], "second": ["alone", "base"]}
    assert run_side_by_side(chains, TWO, after).keys() == chains.keys()
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines.index("+ alone") < lines.index("- base"), "the free place was left empty"
    assert lines.index("- base") < min(lines.index("+ first"), lines.index("+ second"))


def test_an_argument_that_an_earlier_chain_gives(program: Program) -> None:
    program('echo "{\\"said\\": \\"$3-$4\\"}"')
    chains = {"labels": [("teacher", "x"), ("cache", "y")], "kd": [("train", Later("labels", "said"))]}
    assert run_side_by_side(chains, TWO, {"kd": ["labels"]})["kd"] == [{"said": "train-cache-y"}]


def test_what_comes_after_a_failure_is_not_begun(program: Program) -> None:
    program('[ "$4" = base ] && exit 3; echo "{}"')
    with pytest.raises(CommandFailed, match="not begun: first;"):
        run_side_by_side(
            {"base": [("train", "base")], "first": [("train", "first")]}, TWO, {"first": ["base"]}
        )


@pytest.mark.parametrize(("ending", "code"), [("exit 3", 1), ("exit 75", 75), ("kill -9 $$", 1)])
def test_a_failure_stops_the_others_and_all_are_named(
    program: Program, capfd: pytest.CaptureFixture[str], ending: str, code: int
) -> None:
    program(f'if [ "$4" = bad ]; then sleep 0.2; echo why >&2; {ending}; fi; {WAITS}')
    chains = {name: [("train", name)] for name in ("good", "bad", "later")}
    with pytest.raises(CommandFailed, match="bad ended with code .* `bert2ctc train bad`") as caught:
        run_side_by_side(chains, TWO)
    assert caught.value.exit_code == code
    assert "stopped at a checkpoint, or not begun: good, later" in str(caught.value)
    assert "the same command again" in str(caught.value) and "\n" not in str(caught.value)
    assert "bad: why" in capfd.readouterr().err.splitlines()


def test_two_that_fail_at_once_are_both_named(program: Program, tmp_path: Path) -> None:
    """Each waits for the other to have begun, and no signal hurries it."""
    both = f"[ -e {tmp_path}/one.begun ] && [ -e {tmp_path}/two.begun ]"
    program(
        f"trap '' TERM; touch {tmp_path}/$4.begun; until {both}; do sleep 0.01; done; "
        '[ "$4" = one ] && exit 3; exit 4'
    )
    with pytest.raises(CommandFailed) as caught:
        run_side_by_side({"one": [("train", "one")], "two": [("train", "two")]}, TWO)
    assert "one ended with code 3" in str(caught.value)
    assert "two ended with code 4" in str(caught.value)


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_queue_s_signal_reaches_all_and_ends_with_75(program: Program, tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    program(
        f"trap 'echo $4 >> {log}; exit 75' TERM; "
        f'[ "$4" = b ] && sleep 0.2 && kill -{name} $PPID; while true; do sleep 0.02; done'
    )
    chains = {letter: [("train", letter), ("evaluate", letter)] for letter in ("a", "b", "c")}
    with pytest.raises(CommandFailed, match=f"SIG{name}: a, b, c stopped") as caught:
        run_side_by_side(chains, TWO)
    assert caught.value.exit_code == 75
    assert sorted(log.read_text(encoding="utf-8").split()) == ["a", "b"]


def test_ctrl_c_stops_all_and_stays_ctrl_c(program: Program, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program(
        f"trap 'echo $4 >> {log}; exit 75' TERM; "
        '[ "$4" = b ] && sleep 0.2 && kill -INT $PPID; while true; do sleep 0.02; done'
    )
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side({letter: [("train", letter)] for letter in ("a", "b")}, TWO)
    assert sorted(log.read_text(encoding="utf-8").split()) == ["a", "b"]


def test_what_they_say_is_told_line_by_line_with_the_name(
    program: Program, capfd: pytest.CaptureFixture[str]
) -> None:
    program(
        "printf 'half' >&2; sleep 0.3; printf ' and half\\n\\nno end' >&2; "
        'printf \'{"is_reused": true, "much": "\'; head -c 300000 /dev/zero | tr "\\0" x; printf \'"}\''
    )
    results = run_side_by_side({"a": [("train", "a")], "b": [("train", "b")]}, TWO)
    assert [len(results[name][0]["much"]) for name in "ab"] == [300_000] * 2
    lines = capfd.readouterr().err.splitlines()
    for name in "ab":
        told = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]
        assert told == [
            f"$ bert2ctc train {name}", "half and half", "no end", "done before, from equal inputs: reused",
        ]  # fmt: skip
    assert len(lines) == 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to a core")
def test_each_runs_on_its_own_core_with_one_thread(program: Program) -> None:
    program(
        "sleep 0.1; cores=$(sed -n 's/Cpus_allowed_list:[[:space:]]*//p' /proc/self/status); "
        'echo "{\\"cores\\": \\"$cores\\", \\"threads\\": \\"$OMP_NUM_THREADS\\"}"'
    )
    cores = sorted(os.sched_getaffinity(0))
    places = places_for(2, ["cpu"])
    results = run_side_by_side({"a": [("train", "a")], "b": [("train", "b")]}, places)
    found = sorted(results[name][0]["cores"] for name in "ab")
    assert found == sorted(str(cores[job % len(cores)]) for job in range(2))
    assert {results[name][0]["threads"] for name in "ab"} == {"1"}
    assert sorted(os.sched_getaffinity(0)) == cores, "this process was pinned too"


def test_gpus_are_shared_out_and_cores_are_not_pinned_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places_module, "visible_gpus", lambda: ["3", "5"])
    places = places_for(3, ["cpu", "auto"])
    assert [place.environment for place in places] == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "353"]
    assert {place.core for place in places} == {None}
    assert all(not place.gpu for place in places_for(2, ["cpu", "cpu"]))


def test_a_result_that_is_no_json_is_a_fault(program: Program) -> None:
    program(f'[ "$4" = a ] && echo no json && exit 0; {WAITS}')
    with pytest.raises(processes.PipelineError, match="printed no JSON object"):
        run_side_by_side({"a": [("train", "a")], "b": [("train", "b")]}, TWO)
