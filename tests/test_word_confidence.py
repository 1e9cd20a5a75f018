"""The benchmark of word confidences: its areas by brute force, draws by resampling, a run."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import word_confidence
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import ctc_alone

from pipeline.errors import PipelineError
from pipeline.run_record import write_record
from student.data.manifest import read_manifest
from student.inference.recogniser import load_recogniser
from student.inference.transcription import transcript_of
from student.training.trainer import TrainingJob, train

pytestmark = pytest.mark.usefixtures("same_threads_afterwards")


@pytest.fixture(scope="module")
def trained(job: TrainingJob, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A run as `bert2ctc train` leaves it, which has some words right and some wrong."""
    settings = {"max_steps": 45, "evaluate_every_steps": 45, "checkpoint_every_steps": 45}
    own = replace(ctc_alone(job, **settings), run_dir=tmp_path_factory.mktemp("run"))
    train(own)
    write_record(own.run_dir, {"prepared": str(own.train_manifest.parent), "config": {}})
    return own


def area_by_pairs(confidences: np.ndarray, is_wrong: np.ndarray) -> float:
    pairs = list(product(confidences[is_wrong], confidences[~is_wrong]))
    return sum(1.0 if wrong < right else 0.5 * (wrong == right) for wrong, right in pairs) / len(pairs)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_the_area_is_the_share_of_pairs_in_order(words: list[tuple[int, bool]]) -> None:
    confidences, is_wrong = np.array([sure / 5 for sure, _ in words]), np.array([wrong for _, wrong in words])
    if is_wrong.all() or not is_wrong.any():
        return
    shares = word_confidence.shares_in_order(confidences, is_wrong)
    expected = area_by_pairs(confidences, is_wrong)
    assert shares[is_wrong].mean() == pytest.approx(expected)
    assert shares[~is_wrong].mean() == pytest.approx(expected)


def test_its_draws_are_spread_as_real_resamples_of_whole_speakers() -> None:
    random = np.random.default_rng(0)
    owners, blocks = np.repeat(np.arange(60), 8), [str(number // 3) for number in range(60)]
    lift = random.normal(0, 0.6, 20)[owners // 3]  # some speakers are surer, and oftener wrong
    is_wrong = random.random(len(owners)) < 0.2 + 0.1 * (lift > 0)
    confidences = np.stack([random.normal(0, 1, len(owners)) + lift - far * is_wrong for far in (0.5, 1.5)])
    area, drawn = word_confidence.areas(confidences, is_wrong, owners, blocks)
    assert area == pytest.approx([area_by_pairs(row, is_wrong) for row in confidences])
    resampled = []
    for _ in range(600):
        taken = np.concatenate(
            [np.flatnonzero(owners // 3 == speaker) for speaker in random.integers(0, 20, 20)]
        )
        shares = [word_confidence.shares_in_order(row[taken], is_wrong[taken]) for row in confidences]
        resampled.append([own[is_wrong[taken]].mean() for own in shares])
    assert drawn.std(0) == pytest.approx(np.std(resampled, axis=0), rel=0.1)
    assert np.diff(drawn).std() == pytest.approx(np.diff(resampled).std(), rel=0.1)


def test_a_word_is_wrong_where_another_or_none_was_said() -> None:
    heard = [["the", "see", "now"], [], ["ship"]]
    found = word_confidence.wrong_words(["the sea", "we", "a ship"], heard)
    assert found.tolist() == [False, True, True, False]


def test_a_run_is_measured_by_the_confidences_that_transcribe_gives(
    trained: TrainingJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    arguments = [str(trained.run_dir), "--device", "cpu", "--data", str(trained.data_root)]
    word_confidence.main([*arguments, "--json", str(file)], standalone_mode=False)
    found, shown = json.loads(file.read_text(encoding="utf-8")), capsys.readouterr().out
    recogniser = load_recogniser(trained.run_dir, "cpu")
    assert trained.dev_manifest is not None
    utterances = read_manifest(trained.dev_manifest)
    own = [transcript_of(recogniser, trained.data_root / one.audio).words for one in utterances]
    texts = [[word.text for word in words] for words in own]
    is_wrong = word_confidence.wrong_words([one.text for one in utterances], texts)
    assert (found["words"], found["wrong_words"]) == (len(is_wrong), is_wrong.sum())
    assert 0 < found["wrong_words"] < found["words"]
    first = found["rows"][0]
    sure = np.array([word.confidence for words in own for word in words])
    assert (first["of_frames"], first["over_word"]) == ("Tsallis, 1/3", "minimum")
    assert first["area"] == pytest.approx(area_by_pairs(sure, is_wrong), abs=0.02)  # batches round otherwise
    assert first["difference"] == 0 and first["difference_interval"] == [0, 0]
    for row in found["rows"]:
        assert row["interval"][0] <= row["area"] <= row["interval"][1]
        assert row["area"] - first["area"] == pytest.approx(row["difference"])
    assert len({(row["of_frames"], row["over_word"]) for row in found["rows"]}) == len(found["rows"]) == 14
    assert "largest posterior" in shown and f"{first['area']:.4f}" in shown


def test_where_no_word_is_right_there_is_nothing_to_tell_apart(
    trained: TrainingJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(word_confidence, "wrong_words", lambda *given: np.ones(3, dtype=bool))
    with pytest.raises(PipelineError, match="3 of 3 words of dev are wrong"):
        word_confidence.main([str(trained.run_dir), "--data", str(trained.data_root)], standalone_mode=False)
