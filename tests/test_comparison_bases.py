"""A ladder's base has its rates and is in no difference, unless it is named itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from evaluated_runs import evaluated_run, utterances_of
from test_comparison_words import FIRST, SAID, SECOND, compared, refused

from pipeline.cli import main

HEARD = {"base": SAID[1:] + SAID[:1], "ctc": FIRST, "kd": SECOND}


def made(runs: Path, name: str, begins_with: str, steps: int) -> None:
    settings = {"trainer": {"max_steps": steps, "initial_checkpoint": begins_with}}
    evaluated_run(runs / name, utterances_of(SAID), HEARD[Path(name).name], settings)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A ladder, whose runs come in the order of their names: the base, and two that begin with it."""
    base = str(tmp_path / "demo" / "base")
    for steps, (name, begins_with) in enumerate({"base": "", "ctc": base, "kd": f"{base}/final.pt"}.items()):
        made(tmp_path, f"demo/{name}", begins_with, 10 + steps)
    return tmp_path


def pairs(runs: Path, *arguments: str) -> list[tuple[str, str]]:
    return [(one["ours"], one["minus"]) for one in compared(runs, *arguments)["differences"]]


def test_a_ladder_s_base_has_its_rates_and_is_in_no_difference(runs: Path) -> None:
    found = compared(runs, "demo")
    assert [rate["name"] for rate in found["rates"]] == ["demo/base", "demo/ctc", "demo/kd"]
    assert found["bases"] == ["demo/base"] and pairs(runs, "demo") == [("demo/kd", "demo/ctc")]
    assert pairs(runs, "demo", "--every-pair") == [("demo/kd", "demo/ctc")]


def test_a_run_that_is_named_is_compared_as_asked(runs: Path) -> None:
    assert pairs(runs, "demo/base", "demo/ctc") == [("demo/ctc", "demo/base")]
    assert compared(runs, "demo/base", "demo/ctc")["bases"] == []


def test_a_base_is_known_by_the_packed_run_that_began_with_it_elsewhere(runs: Path) -> None:
    made(runs, "other/kd", "/elsewhere/runs/small/base", 13)
    made(runs, "small/base", "", 14)
    made(runs, "small/ctc", "", 15)
    packed = str(runs / "kd.json")
    done = CliRunner().invoke(main, ["runs", "pack", "other/kd", packed, "--runs-root", str(runs)])
    assert done.exit_code == 0, done.output
    assert pairs(runs, "small") == [("small/ctc", "small/base")]
    assert pairs(runs, "small", packed) == [("other/kd", "small/ctc")]


def test_a_run_beside_its_base_alone_is_refused(runs: Path) -> None:
    made(runs, "small/base", "", 14)
    made(runs, "small/ctc", str(runs / "small" / "base"), 15)
    assert "one configuration alone but for what it begins with" in refused(runs, "compare", "small")
