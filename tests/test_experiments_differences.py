"""Which students of a ladder are compared: each with the first and the one before, by corpus and on all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.demo.sites import Site, write_sites
from pipeline.error_rates.transcripts import Transcripts
from pipeline.experiments.ladder import Training, load_ladder, trainings_of
from pipeline.experiments.rows import Row, differences_between, judged
from pipeline.paths import Roots, prepared_folder
from student.data.manifest import Utterance, write_manifest

SITES = [
    Site(f"1-1-{n}", "test", 1, "sea", "see", f"cue{n % 5}", kind, ("near", "far")[n // 2 % 2])
    for n, kind in enumerate(["seen", "teacher_only"] * 20)
]


def heard(num_partners: int) -> Transcripts:
    """Of a run that writes the partner at the first sites."""
    written = {
        site.id: f"the {'see' if number < num_partners else 'sea'}" for number, site in enumerate(SITES)
    }
    return Transcripts({site.id: "the sea" for site in SITES}, written)


def row(training: Training, num_partners: int, roots: Roots, decoder: str = "greedy") -> Row:
    figures, counts = judged(heard(num_partners), "test", training.config, roots)
    key = {"student": training.student, "corpus": training.corpus_name, "seed": training.seed}
    return Row(counts=counts, entry={**key, "decoder": decoder, **figures})


def partners_of(training: Training) -> int:
    """More for worse students, later seeds and the other corpus."""
    student = {"base": 36, "ctc": 30, "interaed_hard": 20, "interaed_kd": 8}[training.student]
    return student + training.seed + (4 if training.corpus_name == "other_cues" else 0)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(**{name: tmp_path / name for name in ("data", "cache", "runs", "scratch")})


@pytest.fixture
def trainings(roots: Roots) -> list[Training]:
    """Of the ladder demo-seeds, whose corpora have sites; a base and three students are enough."""
    every = trainings_of(load_ladder("demo-seeds"), ())
    trainings = [training for training in every if not training.student.startswith("aed_")]
    for training in trainings:
        corpus = roots.data / training.config.data.corpus
        corpus.mkdir(parents=True, exist_ok=True)
        write_sites(corpus / "sites.jsonl", SITES)
    return trainings


def test_each_is_compared_with_the_first_and_the_one_before(trainings: list[Training], roots: Roots) -> None:
    found = differences_between([row(one, partners_of(one), roots) for one in trainings], {"base"})
    pairs = [("interaed_hard", "ctc"), ("interaed_kd", "ctc"), ("interaed_kd", "interaed_hard")]
    corpora = [["main"], ["other_cues"], ["main", "other_cues"]]
    assert [(one["student"], one["minus"]) for one in found] == pairs * 3
    assert [one["corpora"] for one in found] == [each for each in corpora for _ in pairs]
    assert all(one["seeds"] == [1, 2, 3] for one in found)
    for one in found:  # a wrong word of two in each utterance with a partner
        gap = {"ctc": 30, "interaed_hard": 20, "interaed_kd": 8}
        expected = (gap[one["student"]] - gap[one["minus"]]) / (2 * len(SITES))
        assert one["wer"]["difference"] == pytest.approx(expected)
        low, high = one["wer"]["interval"]
        assert low < expected < high
        assert set(one["partner_rate"]["teacher_only"]) == {"all", "near", "far"}


def test_decoders_are_compared_with_greedy_and_the_first_student_by_each(
    trainings: list[Training], roots: Roots
) -> None:
    helped = {"ctc": ("greedy", "words"), "interaed_kd": ("greedy", "words", "beam_lm")}
    here = [one for one in trainings if one.seed == 1 and one.corpus_name == "main"]
    rows = [
        row(one, partners_of(one) - 4 * place, roots, decoder)
        for one in here
        for place, decoder in enumerate(helped.get(one.student, ("greedy",)))
    ]
    found = {(one["student"], one["minus"]): one for one in differences_between(rows, {"base"})}
    assert list(found) == [
        ("interaed_hard", "ctc"),
        ("interaed_hard", "ctc + words"),
        ("interaed_kd", "ctc"),
        ("interaed_kd", "ctc + words"),
        ("interaed_kd", "interaed_hard"),
        ("interaed_kd + words", "ctc + words"),
        ("ctc + words", "ctc"),
        ("interaed_kd + words", "interaed_kd"),
        ("interaed_kd + beam_lm", "interaed_kd"),
    ]
    assert found["interaed_kd", "ctc + words"]["wer"]["difference"] == pytest.approx((8 - 26) / 80)
    assert found["interaed_kd + beam_lm", "interaed_kd"]["wer"]["difference"] == pytest.approx(-8 / 80)


def test_a_run_of_one_corpus_alone_is_not_compared_on_all(trainings: list[Training], roots: Roots) -> None:
    rows = [
        row(one, partners_of(one), roots)
        for one in trainings
        if one.student == "ctc" or (one.student == "interaed_kd" and one.corpus_name == "main")
    ]
    assert [one["corpora"] for one in differences_between(rows, ())] == [["main"]]


def test_other_speech_is_compared_by_its_words(roots: Roots, tmp_path: Path) -> None:
    path = tmp_path / "speech.toml"
    path.write_text("config = 'librispeech-100'\n[students.a]\n[students.b]\n", encoding="utf-8")
    one, other = trainings_of(load_ladder(str(path)), ())
    spoken = [Utterance(id=f"{n % 4}-1-{n}", audio="", text="the sea", seconds=1.0) for n in range(40)]
    write_manifest(prepared_folder(one.config, roots) / "dev.jsonl", spoken)

    def written(training: Training, num_wrong: int) -> Row:
        texts = {
            utterance.id: "a sea" if place < num_wrong else "the sea"
            for place, utterance in enumerate(spoken)
        }
        transcripts = Transcripts({utterance.id: utterance.text for utterance in spoken}, texts)
        figures, counts = judged(transcripts, "dev", training.config, roots)
        low, high = figures["intervals"]["wer"]
        assert low <= num_wrong / 80 <= high
        key = {"student": training.student, "corpus": "librispeech", "seed": 1}
        return Row(counts=counts, entry={**key, "decoder": "greedy", **figures})

    (found,) = differences_between([written(one, 20), written(other, 10)], ())
    assert (found["student"], found["minus"]) == ("b", "a") and "partner_rate" not in found
    assert found["wer"]["difference"] == pytest.approx(-10 / 80)
