"""Differences of word error rates: against another bootstrap, for coverage, and over seeds."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import kaldialign
import numpy as np
import pytest
from evaluated_runs import evaluated_run, utterances_of
from fakes import sentences

from pipeline.comparison.differences import compare, rates_of
from pipeline.comparison.run_facts import RunFacts, read_run
from pipeline.comparison.systems import SharedSplit, System, systems_of
from pipeline.error_rates.intervals import bootstrap_ratios
from pipeline.errors import PipelineError
from pipeline.paths import Roots, roots_from
from student.decoding.names import GREEDY

TEXTS = sentences(60, seed=4, max_words=6)


def spoiled(share: float, seed: int) -> list[str]:
    """The texts with some words misheard."""
    random = np.random.default_rng(seed)
    return [" ".join("x" if random.random() < share else word for word in text.split()) for text in TEXTS]


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return roots_from({"runs": tmp_path})


def facts(roots: Roots, name: str, heard: list[str], **settings: Any) -> tuple[RunFacts, str]:
    run = evaluated_run(roots.runs / name, utterances_of(TEXTS), heard, {"trainer": settings})
    return read_run(run, roots), GREEDY


def test_over_utterances_it_is_kaldialign_s_bootstrap(roots: Roots) -> None:
    one, other = spoiled(0.3, 1), spoiled(0.2, 2)
    test_set, systems = systems_of([facts(roots, "a", one), facts(roots, "b", other, max_steps=30)])
    refs, hyps, hyps2 = ([text.split() for text in texts] for texts in (TEXTS, one, other))
    theirs = kaldialign.bootstrap_wer_ci(refs, hyps, hyps2)
    stacked = np.concatenate([system.errors for system in systems])
    drawn = bootstrap_ratios(stacked, np.broadcast_to(test_set.words, stacked.shape), test_set.ids)
    for column, name in enumerate(("system1", "system2")):
        assert drawn[:, column].mean() == pytest.approx(theirs[name]["wer"], abs=1e-3)
        half = 1.96 * drawn[:, column].std()
        assert half == pytest.approx(theirs[name]["ci95"], rel=0.04)  # theirs is a normal interval
        low, high = rates_of(systems, test_set)[column].by_utterances
        assert (high - low) / 2 == pytest.approx(theirs[name]["ci95"], rel=0.06)
    improved = float((drawn[:, 1] < drawn[:, 0]).mean())
    assert improved == pytest.approx(theirs["p_s2_improv_over_s1"], abs=0.02)


def simulated(errors: np.ndarray, name: str) -> System:
    """A system of so many errors, (seeds, U), without its words."""
    runs = tuple(
        RunFacts(name=name, config={"trainer": {"seed": seed}}) for seed in range(1, len(errors) + 1)
    )
    return System(name, GREEDY, runs, tuple([] for _ in runs), errors)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_intervals_cover_the_true_difference(num_seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speakers differ and are harder for one system or the other; with seeds every training differs too."""
    few = partial(bootstrap_ratios, draws=400)
    monkeypatch.setattr("pipeline.comparison.differences.bootstrap_ratios", few)
    random = np.random.default_rng(num_seeds)
    speakers = np.repeat(np.arange(40), 5)
    ids = tuple(f"{speaker}-{number}" for number, speaker in enumerate(speakers))
    test_set = SharedSplit(
        "test", ids, tuple(map(str, speakers)), (" ".join("a" * 10),) * 200, np.full(200, 10)
    )
    covered = {"by_speakers": 0, "by_utterances": 0}
    trials = 60
    for _ in range(trials):
        difficulty = random.normal(0, 0.05, 40)[speakers]
        systems = []
        for name, rate in (("a", 0.20), ("b", 0.22)):
            own = random.normal(0, 0.04, 40)[speakers]
            trained = random.normal(0, 0.01 if num_seeds > 1 else 0.0, (num_seeds, 1))
            errors = random.binomial(10, np.clip(rate + difficulty + own + trained, 0, 1))
            systems.append(simulated(errors, name))
        (found,) = compare(systems, test_set)
        for kind in covered:
            low, high = getattr(found, kind)
            covered[kind] += low <= 0.02 <= high
    assert covered["by_speakers"] >= 0.88 * trials
    assert covered["by_utterances"] <= covered["by_speakers"]  # what a speaker's utterances share is left out


def test_runs_that_differ_in_seed_and_place_alone_are_one_configuration(roots: Roots) -> None:
    runs = [
        facts(roots, "ctc-seed-1", spoiled(0.3, 1), seed=1),
        facts(roots, "ctc-seed-2", spoiled(0.3, 2), seed=2, threads=1, device="cpu"),
        facts(roots, "kd-seed-1", spoiled(0.1, 3), seed=1, max_steps=30),
    ]
    test_set, systems = systems_of(runs)
    assert [(system.name, len(system.runs)) for system in systems] == [("ctc", 2), ("kd-seed-1", 1)]
    (found,) = compare(systems, test_set)
    assert found.difference == pytest.approx(systems[1].wer(test_set) - systems[0].wer(test_set))
    assert systems[0].wer(test_set) == pytest.approx(np.mean([s.errors.sum() for s in _alone(runs[:2])])
                                                     / test_set.words.sum())  # fmt: skip
    assert found.by_speakers and found.by_speakers[0] < found.difference < found.by_speakers[1] < 0


def _alone(runs: list[tuple[RunFacts, str]]) -> list[System]:
    return [systems_of([run])[1][0] for run in runs]


@pytest.mark.parametrize("file", ["", "/final.pt", "/checkpoints/step_0000000007.pt"])
def test_seeds_that_begin_with_bases_of_their_own_are_one_configuration(roots: Roots, file: str) -> None:
    """On another machine too; a run that began with another base is another configuration."""
    begins = {1: "/here/runs/demo/base-seed-1", 2: "/there/demo/base-seed-2"}
    runs = [
        facts(roots, f"kd-seed-{seed}", spoiled(0.3, seed), seed=seed, initial_checkpoint=path + file)
        for seed, path in begins.items()
    ]
    runs.append(
        facts(roots, "kd-seed-3", spoiled(0.1, 3), seed=3, initial_checkpoint="/here/runs/demo/other")
    )
    _, systems = systems_of(runs)
    assert [(system.name, len(system.runs)) for system in systems] == [("kd", 2), ("kd-seed-3", 1)]


def test_seeds_that_differ_widen_the_interval(roots: Roots) -> None:
    good, bad = facts(roots, "a-seed-1", spoiled(0.02, 1)), facts(roots, "a-seed-2", spoiled(0.6, 2), seed=2)
    middle = facts(roots, "b", spoiled(0.3, 3), max_steps=30)
    widths = []
    for chosen in ([good, middle], [bad, middle], [good, bad, middle]):
        test_set, systems = systems_of(chosen)
        low, high = compare(systems, test_set)[0].by_utterances
        widths.append(high - low)
    assert widths[2] > 2 * max(widths[:2])


def test_several_differences_are_corrected_together(roots: Roots) -> None:
    texts = TEXTS * 4
    utterances = utterances_of(texts)
    chosen = []
    for number, share in enumerate((0.3, 0.2, 0.26)):
        random = np.random.default_rng(number)
        heard = [" ".join("x" if random.random() < share else w for w in text.split()) for text in texts]
        run = evaluated_run(
            roots.runs / str(number), utterances, heard, {"trainer": {"max_steps": number + 9}}
        )
        chosen.append((read_run(run, roots), GREEDY))
    test_set, systems = systems_of(chosen)
    first, each = compare(systems, test_set), compare(systems, test_set, every_pair=True)
    assert [(one.ours, one.minus) for one in first] == [("1", "0"), ("2", "0")]
    assert len(each) == 3 and [dataclasses.replace(one, corrected_p=None) for one in each[:2]] == [
        dataclasses.replace(one, corrected_p=None) for one in first
    ]
    assert all(one.p is not None and one.corrected_p is not None and one.corrected_p >= one.p for one in each)
    assert min(one.p for one in each if one.p is not None) * 3 == pytest.approx(
        min(one.corrected_p for one in each if one.corrected_p is not None)
    )


def test_what_cannot_be_compared_is_refused(roots: Roots) -> None:
    run = facts(roots, "a", TEXTS)
    with pytest.raises(PipelineError, match="one configuration alone"):
        test_set, systems = systems_of([run])
        compare(systems, test_set)
    with pytest.raises(PipelineError, match="one configuration with one seed, 1"):
        systems_of([run, facts(roots, "again", TEXTS)])
    with pytest.raises(PipelineError, match="not evaluated on split 'dev', on test"):
        systems_of([run], "dev")
    with pytest.raises(PipelineError, match="not evaluated with decoder 'words', with greedy"):
        systems_of([(run[0], "words")], "test")
    fewer = evaluated_run(roots.runs / "fewer", utterances_of(TEXTS[:40]), TEXTS[:40])
    with pytest.raises(PipelineError, match="not evaluated on the same utterances of test"):
        systems_of([run, (read_run(fewer, roots), GREEDY)])
    other = evaluated_run(roots.runs / "other", utterances_of([*TEXTS[:-1], "other"]), TEXTS)
    with pytest.raises(PipelineError, match="is not that of the others"):
        systems_of([run, (read_run(other, roots), GREEDY)])
