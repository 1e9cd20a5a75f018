from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.demo.grammar import KINDS, REACHES
from pipeline.demo.homophones import answers_at, answers_of, counts_of, homophone_figures, homophone_report
from pipeline.demo.sites import Site, read_sites, write_sites
from pipeline.demo.teacher_check import masked_word_scorer, teacher_site_accuracy
from pipeline.error_rates.paired import differences_of
from pipeline.error_rates.transcripts import read_transcripts
from pipeline.errors import PipelineError

REFERENCE = "anna wrote night again near the moon"


def score(run: Path, corpus: Path, split: str = "test") -> dict[str, dict[str, Any]]:
    return homophone_figures(answers_of(read_transcripts(run / "evaluation", split), split, corpus))


def compare_runs(ours: dict[Path, list[Path]], theirs: dict[Path, list[Path]]) -> dict[str, Any]:
    counts = [
        {
            str(corpus): [
                counts_of(answers_of(read_transcripts(run / "evaluation", "test"), "test", corpus))
                for run in runs
            ]
            for corpus, runs in side.items()
        }
        for side in (ours, theirs)
    ]
    return differences_of(*counts)


def site(name: str, kind: str = "seen", word: str = "night", partner: str = "knight") -> Site:
    return Site(name, "test", 2, word, partner, "moon", kind, "near")


def judged(hypothesis: str) -> tuple[int, int]:
    score = homophone_report(answers_at([site("a")], {"a": REFERENCE}, {"a": hypothesis}))["seen"]
    return score.sites - score.right, score.partner


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
        ("night anna wrote again near the moon", (1, 0)),  # the right word at the wrong index
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
    report = homophone_report(answers_at(sites, references, hypotheses))
    assert (report["seen"].sites, report["seen"].error_rate, report["seen"].partner_share) == (2, 0.5, 0.5)
    hidden = report["teacher_only"]
    assert (hidden.sites, hidden.error_rate, hidden.partner_share) == (1, 1.0, 0.0)


def test_chance_is_the_error_of_always_writing_the_commoner_spelling() -> None:
    partner = Site("b", "test", 0, "knight", "night", "castle", "seen", "near")
    references = {"a": REFERENCE, "b": "knight", "c": REFERENCE}
    even = homophone_report(answers_at([site("a"), partner], references, references))
    assert even["seen"].chance == pytest.approx(0.5)
    uneven = homophone_report(answers_at([site("a"), partner, site("c")], references, references))
    assert uneven["seen"].chance == pytest.approx(1 / 3)


def test_a_site_that_was_not_evaluated_is_an_error_not_a_zero() -> None:
    with pytest.raises(PipelineError, match="1 sites were not evaluated, b"):
        answers_at([site("a"), site("b")], {"a": REFERENCE}, {"a": REFERENCE})
    with pytest.raises(PipelineError, match="is not 'night'"):
        answers_at([site("a")], {"a": "another text here"}, {"a": REFERENCE})


def test_a_run_is_scored_from_its_trn_files(tmp_path: Path) -> None:
    write_sites(tmp_path / "sites.jsonl", [site("a"), site("b", "teacher_only")])
    assert read_sites(tmp_path, "test") == [site("a"), site("b", "teacher_only")]
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "test.ref.trn").write_text(f"{REFERENCE} (a)\n{REFERENCE} (b)\n")
    (folder / "test.hyp.trn").write_text(f"{REFERENCE} (a)\n (b)\n")
    figures = score(tmp_path / "run", tmp_path)
    assert figures["homophone_error_rate"] == {"seen": 0.0, "teacher_only": 1.0}
    assert figures["homophone_partner_rate"] == {"seen": 0.0, "teacher_only": 0.0}
    assert figures["homophone_sites"] == {"seen": 1, "teacher_only": 1}
    with pytest.raises(PipelineError, match="evaluate this run"):
        score(tmp_path / "run", tmp_path, "dev")


SPELLINGS = ("night", "knight", "light")
CUES = [f"cue{number}" for number in range(12)]


def write_run(folder: Path, written: list[str]) -> Path:
    """An evaluated run that wrote `written` at the sites of `corpus_of`."""
    (folder / "evaluation").mkdir(parents=True)
    for side, words in (("ref", ["night"] * len(written)), ("hyp", written)):
        lines = [REFERENCE.replace("night", word) + f" (u{index})\n" for index, word in enumerate(words)]
        (folder / "evaluation" / f"test.{side}.trn").write_text("".join(lines))
    return folder


def corpus_of(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sites = [
        Site(f"u{n}", "test", 2, "night", "knight", CUES[n % 12], KINDS[n % 12 // 6], REACHES[n % 2])
        for n in range(count)
    ]
    write_sites(folder / "sites.jsonl", sites)
    return folder


def test_partner_rate_leaves_out_what_is_neither_and_each_reach_is_counted(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", 24)
    written = [SPELLINGS[n % 3] for n in range(24)]
    figures = score(write_run(tmp_path / "run", written), corpus)
    chosen = [SPELLINGS[n % 3] for n in range(24) if n % 12 >= 6 and n % 2]
    either = chosen.count("night") + chosen.count("knight")
    assert figures["partner_rate"]["teacher_only"]["far"] == chosen.count("knight") / either
    assert figures["neither_rate"]["teacher_only"]["far"] == chosen.count("light") / len(chosen)
    for kind in KINDS:
        shares = [figures["neither_rate"][kind][reach] for reach in REACHES]
        assert figures["neither_rate"][kind]["all"] == pytest.approx(sum(shares) / 2)
    low, high = figures["intervals"]["wer"]
    assert low < 16 / (24 * 7) < high  # two sites of three are wrong, the other six words are right


def test_a_rate_of_nothing_is_none(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", 12)
    figures = score(write_run(tmp_path / "run", ["light"] * 12), corpus)
    assert figures["partner_rate"]["seen"] == {"all": None, "near": None, "far": None}
    assert figures["intervals"]["partner_rate"]["seen"]["all"] is None


def test_a_run_differs_from_itself_by_nothing_and_from_a_worse_one_surely(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", 240)
    good = write_run(tmp_path / "good", ["knight" if n % 10 == 0 else "night" for n in range(240)])
    bad = write_run(tmp_path / "bad", ["knight" if n % 2 else "night" for n in range(240)])
    itself = compare_runs({corpus: [good]}, {corpus: [good]})
    assert itself["wer"]["difference"] == 0 and itself["wer"]["interval"] == (0, 0)
    found = compare_runs({corpus: [good]}, {corpus: [bad]})
    assert found["wer"]["difference"] == pytest.approx((24 - 120) / (240 * 7))
    assert found["wer"]["interval"][1] < 0
    assert found["wer"]["relative"] == pytest.approx(24 / 120 - 1)
    assert found["partner_rate"]["seen"]["all"]["theirs"] == 0.5
    back = compare_runs({corpus: [bad]}, {corpus: [good]})
    assert back["wer"]["difference"] == -found["wer"]["difference"]


def test_seeds_that_disagree_widen_the_interval(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", 240)
    runs = {
        share: write_run(
            tmp_path / str(share), ["knight" if n // 12 % 4 < share else "night" for n in range(240)]
        )
        for share in (0, 1, 2)
    }

    def width(ours: list[Path]) -> float:
        low, high = compare_runs({corpus: ours}, {corpus: [runs[2]]})["wer"]["interval"]
        return high - low

    assert width([runs[1], runs[1]]) == 0  # every cue has the same errors: no noise of the test set
    assert width([runs[0], runs[2]]) > 0.03


def test_runs_on_other_sites_are_not_compared(tmp_path: Path) -> None:
    first, second = corpus_of(tmp_path / "first", 12), corpus_of(tmp_path / "second", 12)
    run = write_run(tmp_path / "run", ["night"] * 12)
    short = write_run(tmp_path / "short", ["night"] * 6)
    with pytest.raises(PipelineError, match="not evaluated"):
        compare_runs({first: [run]}, {first: [short]})
    with pytest.raises(PipelineError, match="corpora"):
        compare_runs({first: [run]}, {second: [run]})


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
    for sentence, index, words, row in zip(
        sentences, (0, 2), (("night", "knight"), ("knight", "night")), found, strict=True
    ):
        parts = sentence.split()
        parts[index] = "[MASK]"
        encoded = tokenizer(" ".join(parts), return_tensors="pt")
        with torch.no_grad():
            expected = model(**encoded).logits[0, index + 1].softmax(-1)
        ids = tokenizer.convert_tokens_to_ids(list(words))
        np.testing.assert_allclose(row, expected[ids].numpy(), rtol=1e-4)


def test_a_teacher_without_whole_words_is_refused(bert_folder: Path) -> None:
    with pytest.raises(PipelineError, match="'unheard' is not one piece"):
        masked_word_scorer(bert_folder)(["night falls"], [0], [("night", "unheard")])
