"""What an evaluation writes can be checked by hand and by other programs, and its parts make its sums."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from student.data.manifest import Utterance
from student.errors import StudentError
from student.inference.evaluation_files import (
    SplitTexts,
    alignment_text,
    evaluation_folder,
    split_scores,
    write_split,
)
from student.inference.speed import ENCODER, Stopwatch
from student.metrics import align_words, count_errors

ERRORS = ("substitutions", "deletions", "insertions")
SAID = ["a knight rides", "the sea", "red flour makes bread", "long story"]
HEARD = ["the night rides", "", "red makes bread now", "long story"]
TAP = ["a rides", "the", "red", "story"]


@pytest.fixture
def texts() -> SplitTexts:
    utterances = [
        Utterance(id=f"{number // 2}-7-{number}", audio="", text=text, seconds=1.5, speaker=str(number // 2))
        for number, text in enumerate(SAID)
    ]
    return SplitTexts(utterances, {1: TAP, 2: HEARD})


WORDS = st.lists(st.sampled_from("a b c d".split()), max_size=6).map(" ".join)


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=5))
def test_an_alignment_spells_both_texts_with_as_few_errors_as_counted(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    aligned = align_words(references, hypotheses)
    for (reference, hypothesis), words in zip(pairs, aligned, strict=True):
        assert " ".join(word.reference for word in words if word.reference is not None) == reference
        assert " ".join(word.hypothesis for word in words if word.hypothesis is not None) == hypothesis
    counts = count_errors(references, hypotheses)
    found = "".join(word.operation for words in aligned for word in words)
    assert [found.count(letter) for letter in "SDI"] == [getattr(counts, name) for name in ERRORS]


def test_a_reference_without_words_cannot_be_aligned() -> None:
    with pytest.raises(StudentError, match="reference 2 of 2 is empty"):
        align_words(["a", " "], ["a", "b"])
    with pytest.raises(StudentError, match="1 references but 2 hypotheses"):
        align_words(["a"], ["a", "b"])


def test_utterances_and_speakers_add_up_to_the_split(texts: SplitTexts, tmp_path: Path) -> None:
    scores = split_scores(texts)
    write_split(tmp_path, "dev", texts, scores)
    lines = (tmp_path / "dev.utterances.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    speakers = json.loads((tmp_path / "dev.speakers.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "dev.json").read_text(encoding="utf-8")) == scores
    for name in (*ERRORS, "words"):
        assert sum(entry[name] for entry in entries) == scores[name]
        assert sum(figures[name] for figures in speakers.values()) == scores[name]
    assert list(speakers) == ["0", "1"] and speakers["0"]["wer"] == pytest.approx(4 / 5)
    assert [entry["hypothesis"] for entry in entries] == HEARD
    assert [entry["taps"] for entry in entries] == [{"1": text} for text in TAP]


def test_every_tap_has_its_counts_and_its_own_transcripts(texts: SplitTexts, tmp_path: Path) -> None:
    scores = split_scores(texts)
    assert scores["taps"]["2"]["wer"] == scores["tap_wer"]["2"] == scores["wer"]
    assert scores["taps"]["1"]["deletions"] == count_errors(SAID, TAP).deletions == 6
    write_split(tmp_path, "dev", texts, scores)
    for name, heard in (("ref", SAID), ("hyp", HEARD), ("tap1.hyp", TAP)):
        lines = (tmp_path / f"dev.{name}.trn").read_text(encoding="utf-8").splitlines()
        assert lines == [f"{text} ({texts.utterances[row].id})" for row, text in enumerate(heard)]


def test_an_alignment_shows_each_error_below_its_words(texts: SplitTexts) -> None:
    shown = alignment_text(texts.utterances[2], align_words(SAID, HEARD)[2])
    head, said, heard, errors = shown.rstrip("\n").split("\n")
    assert head == "1-7-2: S 0 D 1 I 1"
    assert said == "REF red flour makes bread ***"
    assert heard == "HYP red ***   makes bread now"
    assert errors == "        D                 I"


def test_each_decoder_and_average_has_a_folder_of_its_own() -> None:
    run = Path("run")
    assert evaluation_folder(run) == run / "evaluation"
    found = {evaluation_folder(run, decoder, name) for decoder in ("greedy", "words") for name in ("", "a")}
    assert len(found) == 4 and evaluation_folder(run, "words", "a") == run / "evaluation" / "a" / "words"


def test_a_stopwatch_adds_up_its_parts() -> None:
    stopwatch = Stopwatch(torch.device("cpu"))
    for part, seconds in ((ENCODER, 0.02), ("greedy", 0.01), (ENCODER, 0.02)):
        with stopwatch.measured(part):
            time.sleep(seconds)
    figures = stopwatch.figures("greedy", audio_seconds=10.0)
    assert figures["encoder_seconds"] >= 0.04 and figures["decoder_seconds"] >= 0.01
    spent = figures["encoder_seconds"] + figures["decoder_seconds"]
    assert figures["real_time_factor"] == pytest.approx(spent / 10, rel=1e-3)
    assert figures["threads"] == torch.get_num_threads() and figures["decoder"] == "greedy"
