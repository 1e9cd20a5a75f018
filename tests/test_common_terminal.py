"""Text of a foreign file is shown and never obeyed: by the terminal, by rich, or as a line of its own."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.console import DomainErrorGroup, Report, emit, table
from pipeline.errors import PipelineError
from pipeline.report.facts_table import facts_tables
from pipeline.run_record import claim_run
from student.errors import StudentError
from student.training.log import RunLog
from teacher_cache.common.progress import progress
from teacher_cache.common.terminal import printable, say
from teacher_cache.errors import CacheError

EVIL = "\x1b]0;owned\x07\x1b[2J[bold red]x[/bold red]\u202eabc\r\nError: none :smile: \udc80"
SHOWN = r"\x1b]0;owned\x07\x1b[2J[bold red]x[/bold red]\u202eabc"  # up to the line's end, which errors join


def is_harmless(output: str) -> bool:
    return all(character.isprintable() or character in "\n\t" for character in output)


@given(st.text(st.characters(codec=None, categories=None)))
def test_printable_text_is_kept_and_nothing_else_is_let_through(text: str) -> None:
    made = printable(text)
    assert is_harmless(made) and "\n" not in made
    made.encode("utf-8")
    assert printable(made) == made
    assert not text.isprintable() or made == text


def command(body: object, *arguments: str) -> Result:
    @click.group(cls=DomainErrorGroup)
    def group() -> None:
        pass

    @group.command("run")
    @click.option("--json", "as_json", is_flag=True)
    def run(as_json: bool) -> None:
        if isinstance(body, BaseException):
            raise body
        assert isinstance(body, Report)
        emit(body, as_json)

    return CliRunner().invoke(group, ["run", *arguments])


@pytest.mark.parametrize(
    "error",
    [
        PipelineError(f"{EVIL}; mend it"),
        StudentError(f"{EVIL}; mend it"),
        CacheError(f"{EVIL}; mend it"),
        OSError(errno.ENOENT, "no such file", EVIL),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_quotes_a_foreign_text_is_one_line(error: Exception) -> None:
    done = command(error)
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and is_harmless(done.stderr) and SHOWN in done.stderr


def test_lines_and_tables_show_foreign_text_as_it_stands() -> None:
    facts = {"teacher": EVIL, EVIL: 1, "quality": {"worst": [{"text": EVIL}], EVIL: {EVIL: 0.5}}}
    report = Report({"a": 1}, [EVIL, table(EVIL, [EVIL, "b"], [[EVIL, "1"]]), *facts_tables(facts)])
    done = command(report)
    assert done.exit_code == 0 and is_harmless(done.stdout)
    assert done.stdout.count(SHOWN) >= 9 and "\\r\\nError: none :smile: \\udc80" in done.stdout


def test_json_stays_valid_whatever_is_in_it() -> None:
    result = {"text": EVIL, "numbers": [float("nan"), float("-inf"), 0.5], "more": {EVIL: (float("inf"),)}}
    done = command(Report(result), "--json")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    reported = json.loads(done.stdout, parse_constant=refuse)
    assert reported == {"text": EVIL, "numbers": [None, None, 0.5], "more": {EVIL: [None]}}
    assert is_harmless(done.stdout)


def test_what_is_said_and_counted_while_a_command_runs_is_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(EVIL)
    with progress(EVIL, total=1) as advance:
        advance(1, note=EVIL)
    with RunLog(tmp_path, 0) as log:
        log.say(EVIL)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 3 and is_harmless(shown) and shown.count(SHOWN) == 4
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").count("\n") == 1


def test_a_bar_on_a_terminal_shows_a_foreign_title_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    with progress(EVIL, total=2) as advance:
        advance(1, note=EVIL)
    shown = terminal.getvalue()
    assert shown.count(SHOWN) >= 2 and "\x1b]0;" not in shown and "\u202e" not in shown


def test_a_foreign_run_is_listed_and_compared_without_steering_the_terminal(tmp_path: Path) -> None:
    from pipeline.config import as_tables

    run = tmp_path / "runs" / "evil[red]\x1b[2J"
    record = claim_run(run, as_tables(load_config("demo")), {"name": "x", "prepared": "", "cache": "\x1b[5m"})
    whole = EVIL.replace(
        "\udc80", ""
    )  # half a character is no JSON of ours: the reader of small files refuses it
    record |= {"state": "failed", "error": whole}
    record["config"]["teacher"]["name"] = whole
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (run.with_name("other")).mkdir()
    other = {**record, "config": as_tables(load_config("demo"))}
    (run.with_name("other") / "run.json").write_text(json.dumps(other), encoding="utf-8")
    roots = ["--runs-root", str(run.parent), "--cache-root", str(tmp_path)]
    for arguments in (["ls"], ["diff", run.name, "other"]):
        done = CliRunner().invoke(main, ["runs", *arguments, *roots])
        assert done.exit_code == 0 and is_harmless(done.stdout), done.output
        assert r"evil[red]\x1b[2J" in done.stdout and SHOWN in done.stdout
        done = CliRunner().invoke(main, ["runs", *arguments, *roots, "--json"])
        assert json.loads(done.stdout) and is_harmless(done.stdout)


HUNG_UP = """
import os, sys
from teacher_cache.common.progress import progress
from teacher_cache.common.terminal import say
leading, following = os.openpty()
os.dup2(following, 2)
os.close(following)
with progress("read by a person", total=2) as advance:
    assert sys.stderr.isatty()
    os.close(leading)  # from now on every write fails
    advance(1, note="and then by nobody")
    say("not this either")
    advance(1)
say("nor that")
sys.exit(75)
"""


def test_a_terminal_that_hung_up_changes_neither_the_work_nor_its_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", HUNG_UP], capture_output=True, timeout=60)
    assert done.returncode == 75
