"""The table of an experiment: it fits a terminal, has a mean over seeds, and a dash for what is missing."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from pipeline.console import table
from pipeline.report.experiment_table import experiment_tables
from pipeline.report.markdown import as_markdown

WIDTH = 110


def row(name: str, seed: int = 1, corpus: str = "main", **more: Any) -> dict[str, Any]:
    reach = {"all": 0.5, "near": 0.25, "far": 0.75}
    rates = {"seen": dict.fromkeys(reach, 0.02), "teacher_only": reach}
    return {
        "name": name,
        "corpus": corpus,
        "seed": seed,
        "wer": 0.05 + seed / 100,
        "cer": 0.02,
        "steps": 1200,
        "seconds": 3000.4,
        "homophone_error_rate": {"seen": 0.01, "teacher_only": 0.6},
        "homophone_sites": {"seen": 640, "teacher_only": 641},
        "partner_rate": rates,
        "neither_rate": rates,
        "intervals": {"wer": [0.04, 0.15]},
    } | more


def shown(*rows: dict[str, Any], differences: tuple[dict[str, Any], ...] = (), **more: Any) -> list[str]:
    accuracy = {"seen": 1.0, "teacher_only": 0.99}
    results = {"rows": rows, "differences": list(differences), "teacher_site_accuracy": accuracy} | more
    console = Console(width=300, highlight=False)
    with console.capture() as capture:
        for part in experiment_tables(results):
            console.print(part, markup=False)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_seeds_have_a_mean_and_everything_fits() -> None:
    difference = {
        "student": "interaed_hard",
        "minus": "ctc",
        "corpora": ["main"],
        "seeds": [1, 2, 3],
        "wer": {"difference": -0.0123, "interval": [-0.02, -0.001]},
        "partner_rate": {
            "teacher_only": {"near": {"difference": -0.2, "interval": [-0.3, -0.1]}, "far": None}
        },
        "neither_rate": {"teacher_only": {"all": {"difference": 0.0, "interval": [-0.01, 0.01]}}},
    }
    rows = [row(name, seed) for name in ("ctc", "interaed_hard") for seed in (1, 2, 3)]
    lines = shown(*rows, differences=(difference,))
    assert max(map(len, lines)) <= WIDTH
    (mean,) = (line.split() for line in lines if line.startswith("interaed_hard") and "mean" in line)
    assert mean[:3] == ["interaed_hard", "mean", "7.0"] and mean[3] == "2.0", mean
    (first,) = (line for line in lines if line.split()[:2] == ["ctc", "1"])
    assert "6.0 (4.0-15.0)" in first and "1.0 / 60.0" in first and "25.0 / 75.0" in first
    assert "2.0 / 50.0" in first and first.endswith("1,200     3000")
    assert any("interaed_hard - ctc" in line and "-1.2 (-2.0, -0.1)" in line for line in lines)


def test_corpora_have_a_table_each_and_a_teacher_each() -> None:
    accuracy = {name: {"seen": 1.0, "teacher_only": share} for name, share in (("main", 0.9), ("b", 0.8))}
    lines = shown(row("ctc"), row("ctc", corpus="b"), teacher_site_accuracy=accuracy)
    assert [line for line in lines if line in ("main", "b")] == ["main", "b"]
    assert [line.split(", ")[1] for line in lines if line.startswith("teacher-only")] == [
        "the teacher alone 10.0% wrong",
        "the teacher alone 20.0% wrong",
    ]


def test_one_seed_of_other_speech_shows_error_rates_alone() -> None:
    bare = {key: row("ctc")[key] for key in ("name", "corpus", "seed", "wer", "cer", "steps", "seconds")}
    head, line = shown(bare | {"intervals": {}})
    assert head.split() == ["student", "WER", "%", "(95", "%)", "CER", "%", "steps", "seconds"]
    assert line.split() == ["ctc", "6.0", "2.0", "1,200", "3000"]


def test_what_an_older_score_lacks_is_a_dash() -> None:
    lines = shown(row("ctc", partner_rate={}, neither_rate={}, intervals={}))
    assert any("- / -" in line and line.startswith("ctc") for line in lines)


def test_decoders_stand_below_their_student_with_their_seconds_and_without_its_training() -> None:
    def decoded(student: str, decoder: str, seconds: float) -> dict[str, Any]:
        name = student if decoder == "greedy" else f"{student} + {decoder}"
        return row(name, student=student, decoder=decoder, decoder_seconds=seconds)

    rows = [decoded(name, by, 2.25) for by in ("greedy", "words") for name in ("ctc", "interaed_kd")]
    lines = shown(*rows, decoded("ctc", "beam_lm", 31.0))
    assert max(map(len, lines)) <= 120
    names = [line.split("  ")[0] for line in lines if line.startswith(("ctc", "interaed"))]
    assert names == ["ctc", "ctc + words", "ctc + beam_lm", "interaed_kd", "interaed_kd + words"]
    (greedy, words) = (line.split() for line in lines if line.startswith(("ctc  ", "ctc + words")))
    assert greedy[-3:] == ["1,200", "3000", "2.2"] and words[-1] == "2.2"
    assert "1,200" not in words and "3000" not in words


def test_what_a_run_made_elsewhere_does_not_tell_is_a_dash() -> None:
    (line,) = (one for one in shown(row("far", steps=None, seconds=None)) if one.startswith("far"))
    assert line.split()[-2:] == ["-", "-"]


def test_differences_of_other_speech_are_of_words_alone() -> None:
    bare = {key: row("ctc")[key] for key in ("name", "corpus", "seed", "wer", "cer", "steps", "seconds")}
    difference = {"student": "kd", "minus": "ctc + words", "corpora": ["main"]}
    difference |= {"wer": {"difference": -0.01, "interval": [-0.02, 0.001]}}
    *_, head, line = shown(bare | {"intervals": {}}, differences=(difference,))
    assert head.split() == ["points", "(95", "%)", "WER"]
    assert line.split("  ")[0] == "kd - ctc + words" and line.endswith("-1.0 (-2.0, 0.1)")


def test_markdown_holds_every_cell_and_splits_at_none_of_their_signs() -> None:
    made = table("of a|b", ["student", "WER %\n(95 %)"], [["a|b", "1.0"], ["", "[2.0]"]])
    assert as_markdown(["note", made]).splitlines() == [
        "note",
        "",
        "**of a\\|b**",
        "",
        "| student | WER % (95 %) |",
        "| --- | ---: |",
        "| a\\|b | 1.0 |",
        "|  | [2.0] |",
    ]
