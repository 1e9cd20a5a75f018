"""Units: what is encoded comes back, and the same text trains the same units."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from student.config import UNIT_MODEL_TYPES
from student.data.units import BLANK_ID, Units, train_units
from student.errors import StudentError
from student.frames import frames_needed

TEXTS = sentences(200, seed=1)
LETTERS = "".join(sorted(set("".join(TEXTS)) - {" "}))


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Units:
    return train_units(TEXTS, tmp_path_factory.mktemp("units") / "units.model", 64)[0]


@settings(max_examples=50)
@given(words=st.lists(st.text(LETTERS, min_size=1, max_size=8), max_size=6))
def test_any_text_over_the_known_letters_comes_back(units: Units, words: list[str]) -> None:
    text = " ".join(words)
    assert units.decode(units.encode(text)) == text


def test_no_unit_of_a_text_is_the_blank(units: Units) -> None:
    encoded = {unit for text in TEXTS for unit in units.encode(text)}
    assert BLANK_ID not in encoded
    assert max(encoded) < units.size == len(units.pieces)


def test_a_character_never_seen_leaves_no_mark_in_the_text(units: Units) -> None:
    assert units.decode(units.encode("éé")) == ""


def test_blanks_are_skipped_in_decoding(units: Units) -> None:
    ids = units.encode(TEXTS[0])
    assert units.decode([BLANK_ID, *ids[:1], BLANK_ID, *ids[1:], BLANK_ID]) == TEXTS[0]


@pytest.mark.parametrize("model_type", UNIT_MODEL_TYPES)
def test_the_same_texts_train_the_same_bytes(tmp_path: Path, model_type: str) -> None:
    first, _ = train_units(TEXTS, tmp_path / "a" / "units.model", 50, model_type)
    second, _ = train_units(TEXTS, tmp_path / "b" / "units.model", 50, model_type)
    assert first.model_bytes == second.model_bytes


def test_the_file_holds_the_units_and_the_vocabulary_its_pieces(tmp_path: Path) -> None:
    units, _ = train_units(TEXTS, tmp_path / "units.model", 50)
    assert Units.from_file(tmp_path / "units.model").encode(TEXTS[1]) == units.encode(TEXTS[1])
    assert (tmp_path / "units.vocab").read_text().splitlines() == units.pieces[1:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["units.model", "units.vocab"]


def test_too_large_a_vocabulary_is_reduced_and_said(tmp_path: Path) -> None:
    units, num_pieces = train_units(["a cat", "a hat"], tmp_path / "units.model", 1000)
    assert num_pieces == units.size - 1 < 1000
    assert units.decode(units.encode("a hat")) == "a hat"


def test_frames_needed_count_units_and_repeats(tmp_path: Path) -> None:
    units, _ = train_units(["a b c aa bb"], tmp_path / "units.model", 5, "char")
    assert frames_needed(units.encode("abc")) == len(units.encode("abc"))
    assert frames_needed(units.encode("aab")) == len(units.encode("aab")) + 1


def test_training_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_units(TEXTS, tmp_path / "units.model", 50)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_bad_input_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="no text"):
        train_units([" "], tmp_path / "units.model", 50)
    with pytest.raises(StudentError, match="unit_vocabulary_size"):
        train_units(["the quick brown fox"], tmp_path / "units.model", 3)
    with pytest.raises(StudentError, match="data prepare"):
        Units.from_file(tmp_path / "absent.model")
    with pytest.raises(StudentError, match="no SentencePiece model"):
        Units(b"not a model")
    with pytest.raises(StudentError, match="sentence"):
        train_units(TEXTS, tmp_path / "units.model", 50, "sentence")


@pytest.mark.parametrize("content", [b"", b"\n", b"no model"], ids=["empty", "a line", "a text"])
def test_a_file_that_is_no_model_is_told_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "units.model").write_bytes(content)
    with pytest.raises(StudentError, match=r"units\.model: \d bytes are no SentencePiece model"):
        Units.from_file(tmp_path / "units.model")
