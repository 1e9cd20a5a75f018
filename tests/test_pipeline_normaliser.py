"""The normaliser: what stays, what goes, and what it refuses to guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.normaliser import ALPHABET, UnspeakableText, normalise, normaliser_identity

SPEAKABLE = "".join(chr(c) for c in range(32, 127) if chr(c) not in "0123456789#$%&+<=>@^|~")


@given(st.text(alphabet=SPEAKABLE + "éÜæßﬁ’“”—…\u00a0\u200b\u0301"))
def test_what_comes_out_is_words_of_the_alphabet_with_single_spaces(text: str) -> None:
    normal = normalise(text)
    assert set(normal) <= set(ALPHABET) | {" "}
    assert normal == " ".join(normal.split())
    assert all(word[0] != "'" for word in normal.split())


@given(st.text(alphabet=SPEAKABLE + "éÜæßﬁ’“”—…"))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text())
def test_any_text_is_either_spoken_or_refused_with_characters_that_it_holds(text: str) -> None:
    try:
        assert set(normalise(text)) <= set(ALPHABET) | {" "}
    except UnspeakableText as error:
        assert error.characters
        assert set(error.characters) <= set(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Café naïve Œuvre ﬁne Straße", "cafe naive oeuvre fine strasse"),
        ("e\u0301tude", "etude"),  # a combining accent
        ("to-day—and “to morrow”…", "to day and to morrow"),
        ("Don’t! ‘Yes,’ he said; rock ’n’ roll", "don't yes he said rock n' roll"),
        ("``quoted'' and o''clock", "quoted and o clock"),
        ("the boys' nothin' 'Tis 'em", "the boys' nothin' tis em"),
        ("Mr. and Mrs. B.", "mister and missus b"),
        ("Mrs.Mr mrsa amr", "missus mister mrsa amr"),
        ("_italics_ [note] (aside)* and/or", "italics note aside and or"),
        ("zero\u200bwidth\ufeff soft\u00adhyphen", "zerowidth softhyphen"),
        ("", ""),
        ("... '' -- !", ""),
    ],
)
def test_spelling(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize("text", ["in 1865", "Smith & Co", "π r", "5 °C", "$", "naïve ½", "日本", "\x93"])
def test_what_has_no_one_spoken_form_is_refused_by_name(text: str) -> None:
    with pytest.raises(UnspeakableText) as caught:
        normalise(text)
    assert set(caught.value.characters) <= set(text)
    assert isinstance(caught.value, PipelineError)
    assert "\n" not in str(caught.value)


def test_the_refusal_names_every_character_once_in_order() -> None:
    with pytest.raises(UnspeakableText, match=r"'3' \(DIGIT THREE\), '&' \(AMPERSAND\), '1'") as caught:
        normalise("3 & 1 & 3")
    assert caught.value.characters == "3&1"


def test_the_identity_is_json_and_names_the_version() -> None:
    identity = normaliser_identity()
    assert json.loads(json.dumps(identity)) == identity
    assert {"name", "version", "settings"} == set(identity)


@pytest.mark.data
def test_librispeech_transcripts_come_back_unchanged_but_for_case(real_data: Path) -> None:
    lines = (real_data / "text" / "train-clean-100.partial.txt").read_text(encoding="utf-8").splitlines()
    for path in (real_data / "LibriSpeech").glob("*/*/*/*.trans.txt"):
        lines += path.read_text(encoding="utf-8").splitlines()
    assert len(lines) > 13_000
    for line in lines:
        transcript = line.partition(" ")[2].strip()
        assert normalise(transcript) == transcript.lower()
