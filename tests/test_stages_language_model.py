"""`bert2ctc lm`: estimated once and found again, trained, listed, opened for its own units alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.errors import PipelineError
from pipeline.language_model.folder import ARPA_NAME, NOTE_NAME, open_scorer, read_note
from pipeline.paths import Roots, language_model_folder, prepared_folder, roots_from
from student.data.manifest import Utterance, write_manifest
from student.data.units import Units, train_units

CONFIG = """
[data]
corpus = "tones"
unit_vocabulary_size = 30
[data.splits]
train = { folders = ["train"] }
dev = { folders = ["dev"] }
[teacher]
name = "own"
[teacher_training]
text = ["books.txt"]
[language_model]
unit_order = 3
word_order = 2
num_layers = 1
hidden_dim = 16
num_heads = 2
max_steps = 4
batch_size = 8
held_out_fraction = 0.1
[trainer]
device = "cpu"
"""
DRAW = random.Random(0)
WORDS = ["sea", "tree", "a", "the", "calm", "is", "mist", "deep", "tide", "red", "zoo"]
SENTENCES = [" ".join(DRAW.choices(WORDS, k=9)) for _ in range(120)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, a text and prepared manifests with units, in one folder."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tones.toml").write_text(CONFIG)
    (folder / "data").mkdir()
    (folder / "data" / "books.txt").write_text("\n".join(SENTENCES[30:] + ["quick 7"]) + "\n")
    prepared = prepared_folder(load_config(str(folder / "tones.toml")), roots(folder))
    prepared.mkdir(parents=True)
    for split, texts in (("train", SENTENCES[:20]), ("dev", SENTENCES[20:30])):
        write_manifest(
            prepared / f"{split}.jsonl",
            [Utterance(id=f"{split}-{n}", audio="a", text=text, seconds=1.0) for n, text in enumerate(texts)],
        )
    train_units(SENTENCES[:20], prepared / "units.model", 30)
    return folder


def roots(folder: Path) -> Roots:
    return roots_from({name: folder / name for name in ("data", "cache", "runs", "scratch")})


def lm(folder: Path, *words: str) -> dict[str, Any]:
    named = ["data", "runs", "scratch"] if words[0] == "train" else ["data", "runs"]
    given = [f"--{name}-root={folder / name}" for name in named if words[0] != "ls" or name == "runs"]
    config = [] if words[0] == "ls" else [str(folder / "tones.toml")]
    done = CliRunner().invoke(main, ["lm", *words, *config, *given, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def units_of(folder: Path) -> Units:
    return Units.from_file(
        prepared_folder(load_config(str(folder / "tones.toml")), roots(folder)) / "units.model"
    )


def test_ngrams_are_made_once_and_foretell_dev(place: Path) -> None:
    preview = lm(place, "ngram", "--dry-run")
    assert preview["memory_bytes"] > preview["tokens"] > preview["words"] > 900
    words, units = lm(place, "ngram"), lm(place, "ngram", "--of", "units")
    assert not words["is_reused"] and lm(place, "ngram")["is_reused"]
    assert len(words["ngrams"]) == 2 and len(units["ngrams"]) == 3
    for made in (words, units):
        assert 1.0 < made["perplexity"]["dev"]["nats_per_word"] < 3.5
        assert made["text"]["transcripts"] == 20
    folder = Path(units["folder"])
    config = load_config(str(place / "tones.toml"))
    assert folder == language_model_folder(config, roots(place), "units")
    alone = lm(place, "ngram", "--without-transcripts")
    assert alone["folder"] != words["folder"] and alone["text"]["transcripts"] == 0
    scorer = open_scorer(folder, units_of(place))
    scores = scorer.scores(scorer.initial(1, torch.device("cpu")))
    assert float(scores.log_probs.exp().sum() + scores.end_log_probs.exp()) == pytest.approx(1, abs=1e-4)
    assert scorer.digest == units["digest"] and scorer.num_units == units_of(place).size


def test_ngrams_that_memory_cannot_hold_are_refused_before_they_are_counted(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = lm(place, "ngram", "--dry-run", "--set", "language_model.seed=2")["memory_bytes"]
    monkeypatch.setattr("teacher_cache.common.memory.free_bytes", lambda: needed // 2)
    given = [f"--{name}-root={place / name}" for name in ("data", "runs")]
    asked = ["lm", "ngram", str(place / "tones.toml"), *given, "--set", "language_model.seed=2"]
    done = CliRunner().invoke(main, asked)
    told = [line for line in done.stderr.splitlines() if not line.startswith("reading text")]
    assert done.exit_code == 1 and len(told) == 1
    assert "of memory" in told[0] and "are free; lower language_model.word_order" in told[0]
    assert not list((place / "runs" / "language_models").glob("*-words-*/.*"))


def test_a_network_is_trained_once_and_opened(place: Path) -> None:
    made = lm(place, "train")
    assert not made["is_reused"] and lm(place, "train")["is_reused"]
    assert not list((place / "scratch" / "language_models").iterdir())
    scorer = open_scorer(Path(made["folder"]), units_of(place))
    assert scorer.num_units == units_of(place).size and scorer.digest == made["digest"]
    listed = lm(place, "ls")["language_models"]
    assert made["folder"] in [one["folder"] for one in listed]


def test_what_is_not_of_these_units_is_refused_in_one_line(place: Path, tmp_path: Path) -> None:
    train_units(SENTENCES[40:], tmp_path / "other.model", 25)
    other = Units.from_file(tmp_path / "other.model")
    words, units = Path(lm(place, "ngram")["folder"]), Path(lm(place, "ngram", "--of", "units")["folder"])
    cases = [
        (units, other, "is of other units than the student's"),
        (units / ARPA_NAME, other, "of other units"),
        (words, units_of(place), "is an n-gram of words"),
        (words / ARPA_NAME, units_of(place), "of other units"),
        (tmp_path, other, "no language model"),
        (tmp_path / "absent", other, "no such file"),
    ]
    for path, of, told in cases:
        with pytest.raises(PipelineError, match=told) as caught:
            open_scorer(path, of)
        assert "\n" not in str(caught.value)
    arpa = (units / ARPA_NAME).read_text()
    (units / ARPA_NAME).write_text(arpa.replace("-", "-1", 1))
    with pytest.raises(PipelineError, match="is not the file of its note"):
        open_scorer(units, units_of(place))
    (units / ARPA_NAME).write_text(arpa)
    (tmp_path / NOTE_NAME).write_text((units / NOTE_NAME).read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(PipelineError, match="is format 9"):
        read_note(tmp_path)


def test_a_changed_text_is_refused_and_not_mixed_in(place: Path) -> None:
    lm(place, "ngram")
    books = place / "data" / "books.txt"
    kept = books.read_text()
    books.write_text(kept + "the sea is calm\n")
    given = [f"--{name}-root={place / name}" for name in ("data", "runs")]
    done = CliRunner().invoke(main, ["lm", "ngram", str(place / "tones.toml"), *given])
    books.write_text(kept)
    assert done.exit_code == 1 and "was made otherwise (text_sha256" in done.stderr
    assert done.stderr.count("\n") == 1
