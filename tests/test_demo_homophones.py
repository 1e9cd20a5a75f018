from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.homophones import (
    Site,
    homophone_report,
    masked_word_scorer,
    read_sites,
    score_run,
    teacher_site_accuracy,
    write_sites,
)
from pipeline.errors import PipelineError

REFERENCE = "anna wrote night again near the moon"


def site(name: str, kind: str = "seen", word: str = "night", partner: str = "knight") -> Site:
    return Site(name, "test", 2, word, partner, "moon", kind)


def judged(hypothesis: str) -> tuple[int, int]:
    score = homophone_report([site("a")], {"a": REFERENCE}, {"a": hypothesis})["seen"]
    return score.wrong, score.partner


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        (REFERENCE, (0, 0)),
        (REFERENCE.upper(), (0, 0)),
        ("anna wrote knight again near the moon", (1, 1)),
        ("anna wrote light again near the moon", (1, 0)),
        ("anna wrote again near the moon", (1, 0)),  # deleted counts as wrong
        ("", (1, 0)),
        ("wrote night again near the moon", (0, 0)),  # an error elsewhere shifts nothing
        ("the old anna wrote night again near the moon", (0, 0)),
        ("hannah rote knight again near moon", (1, 1)),
        ("night anna wrote again near the moon", (1, 0)),  # the right word at the wrong place
    ],
)
def test_a_site_is_right_where_its_aligned_word_is(hypothesis: str, expected: tuple[int, int]) -> None:
    assert judged(hypothesis) == expected


def test_kinds_are_counted_apart_and_utterances_without_a_site_do_not_count() -> None:
    sites = [site("a"), site("b"), site("c", "teacher_only")]
    references = dict.fromkeys("abcd", REFERENCE)
    hypotheses = references | {
        "b": REFERENCE.replace("night", "knight"),
        "c": REFERENCE.replace("night", "x"),
        "d": "",
    }
    report = homophone_report(sites, references, hypotheses)
    assert (report["seen"].sites, report["seen"].error_rate, report["seen"].partner_rate) == (2, 0.5, 0.5)
    hidden = report["teacher_only"]
    assert (hidden.sites, hidden.error_rate, hidden.partner_rate) == (1, 1.0, 0.0)


def test_chance_is_the_error_of_always_writing_the_commoner_spelling() -> None:
    partner = Site("b", "test", 0, "knight", "night", "castle", "seen")
    references = {"a": REFERENCE, "b": "knight", "c": REFERENCE}
    even = homophone_report([site("a"), partner], references, references)
    assert even["seen"].chance == pytest.approx(0.5)
    uneven = homophone_report([site("a"), partner, site("c")], references, references)
    assert uneven["seen"].chance == pytest.approx(1 / 3)


def test_a_site_that_was_not_evaluated_is_an_error_not_a_zero() -> None:
    with pytest.raises(PipelineError, match="1 sites were not evaluated, b"):
        homophone_report([site("a"), site("b")], {"a": REFERENCE}, {"a": REFERENCE})
    with pytest.raises(PipelineError, match="is not 'night'"):
        homophone_report([site("a")], {"a": "another text here"}, {"a": REFERENCE})


def test_a_run_is_scored_from_its_trn_files(tmp_path: Path) -> None:
    write_sites(tmp_path / "sites.jsonl", [site("a"), site("b", "teacher_only")])
    assert read_sites(tmp_path, "test") == [site("a"), site("b", "teacher_only")]
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "test.ref.trn").write_text(f"{REFERENCE} (a)\n{REFERENCE} (b)\n")
    (folder / "test.hyp.trn").write_text(f"{REFERENCE} (a)\n (b)\n")
    figures = score_run(tmp_path / "run", "test", tmp_path)
    assert figures["homophone_error_rate"] == {"seen": 0.0, "teacher_only": 1.0}
    assert figures["homophone_partner_rate"] == {"seen": 0.0, "teacher_only": 0.0}
    assert figures["homophone_sites"] == {"seen": 1, "teacher_only": 1}
    with pytest.raises(PipelineError, match="bert2ctc evaluate"):
        score_run(tmp_path / "run", "dev", tmp_path)


def test_a_split_without_sites_is_an_error(tmp_path: Path) -> None:
    write_sites(tmp_path / "sites.jsonl", [site("a")])
    with pytest.raises(PipelineError, match="no site in split 'dev'"):
        read_sites(tmp_path, "dev")


def test_the_teacher_is_right_where_it_prefers_the_word_to_its_partner() -> None:
    sites = [site("a"), site("b"), site("c", "teacher_only")]
    asked = {}

    def score(sentences: list[str], indices: list[int], candidates: list[tuple[str, str]]) -> np.ndarray:
        asked.update(sentences=sentences, indices=indices, candidates=candidates)
        return np.array([[0.6, 0.1], [0.1, 0.1], [0.3, 0.2]])

    accuracy = teacher_site_accuracy(sites, dict.fromkeys("abc", REFERENCE.upper()), score)
    assert accuracy == {"seen": 0.5, "teacher_only": 1.0}  # a tie is not right
    assert asked == {
        "sentences": [REFERENCE] * 3,
        "indices": [2] * 3,
        "candidates": [("night", "knight")] * 3,
    }


def test_the_scorer_hides_the_word_and_reads_its_probability(bert_folder: Path) -> None:
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    score = masked_word_scorer(bert_folder)
    sentences = ["night falls dark", "the old knight rides a brave horse"]
    found = score(sentences, [0, 2], [("night", "knight"), ("knight", "night")])
    hidden = score(["knight falls dark"], [0], [("night", "knight")])
    np.testing.assert_allclose(hidden, found[:1], rtol=1e-5)  # what stood there cannot be seen
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    model = AutoModelForMaskedLM.from_pretrained(bert_folder).eval()
    for sentence, place, words, row in zip(
        sentences, (0, 2), (("night", "knight"), ("knight", "night")), found, strict=True
    ):
        parts = sentence.split()
        parts[place] = "[MASK]"
        encoded = tokenizer(" ".join(parts), return_tensors="pt")
        with torch.no_grad():
            expected = model(**encoded).logits[0, place + 1].softmax(-1)
        ids = tokenizer.convert_tokens_to_ids(list(words))
        np.testing.assert_allclose(row, expected[ids].numpy(), rtol=1e-4)


def test_a_teacher_without_whole_words_is_refused(bert_folder: Path) -> None:
    with pytest.raises(PipelineError, match="'unheard' is not one piece"):
        masked_word_scorer(bert_folder)(["night falls"], [0], [("night", "unheard")])
