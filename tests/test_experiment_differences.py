"""Which students of a ladder are compared: each with the first and the one before, by corpus and on all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.demo.sites import Site, write_sites
from pipeline.experiment import differences_between
from pipeline.ladder import Training, load_ladder, trainings_of
from pipeline.paths import Roots

SITES = [
    Site(f"1-1-{n}", "test", 1, "sea", "see", f"cue{n % 5}", kind, ("near", "far")[n // 2 % 2])
    for n, kind in enumerate(["seen", "teacher_only"] * 20)
]


def write_run(run: Path, num_partners: int) -> None:
    """An evaluated run that writes the partner at the first sites."""
    folder = run / "evaluation"
    folder.mkdir(parents=True)
    for side in ("ref", "hyp"):
        words = ["see" if side == "hyp" and n < num_partners else "sea" for n in range(len(SITES))]
        lines = [f"the {word} ({site.id})\n" for word, site in zip(words, SITES, strict=True)]
        (folder / f"test.{side}.trn").write_text("".join(lines), encoding="utf-8")


def partners_of(training: Training) -> int:
    """More for worse students, later seeds and the other corpus."""
    student = {"base": 36, "ctc": 30, "interaed_hard": 20, "interaed_kd": 8}[training.student]
    return student + training.seed + (4 if training.corpus_name == "other_cues" else 0)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(**{name: tmp_path / name for name in ("data", "cache", "runs", "scratch")})


def test_each_is_compared_with_the_first_and_the_one_before(roots: Roots) -> None:
    ladder = load_ladder("demo-seeds")
    trainings = trainings_of(ladder, ())
    for training in trainings:
        corpus = roots.data / training.config.data.corpus
        corpus.mkdir(parents=True, exist_ok=True)
        write_sites(corpus / "sites.jsonl", SITES)
        write_run(roots.runs / "demo-seeds" / training.run, partners_of(training))
    found = differences_between(ladder, trainings, roots)
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


def test_other_speech_has_no_homophones_to_compare(roots: Roots, tmp_path: Path) -> None:
    path = tmp_path / "speech.toml"
    path.write_text("config = 'librispeech-100'\n[students.a]\n[students.b]\n", encoding="utf-8")
    ladder = load_ladder(str(path))
    assert differences_between(ladder, trainings_of(ladder, ()), roots) == []
