"""The text of a language model: the teacher's and the training transcripts, never what is measured on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.language_model.settings import LanguageModelConfig
from pipeline.language_model.text import TextRequest, language_text, text_recipe, words_in
from pipeline.normaliser import UnspeakableText, normalise

WORDS = [f"{one}{two}" for one in "bdfgk" for two in ("a", "e", "i", "o", "u", "ar", "en")]
DRAW = random.Random(0)
SENTENCES = [" ".join(DRAW.choices(WORDS, k=12)) for _ in range(300)]
TRAIN, DEV = SENTENCES[:20], SENTENCES[20:40]


def request(folder: Path, lines: list[str], **settings: object) -> TextRequest:
    path = folder / "text.txt"
    path.write_text("\n".join(lines) + "\n")
    return TextRequest(
        config=LanguageModelConfig(held_out_fraction=0.1, **settings),  # type: ignore[arg-type]
        paths=(path,),
        train=TRAIN,
        measured=DEV,
        normalise=normalise,
        unspeakable=UnspeakableText,
        normaliser={"version": 1},
    )


def windows(sentences: list[str], length: int) -> set[tuple[str, ...]]:
    cut = [sentence.split() for sentence in sentences]
    return {tuple(words[at : at + length]) for words in cut for at in range(len(words) - length + 1)}


def test_no_sentence_shares_eight_words_in_a_row_with_a_measured_one(tmp_path: Path) -> None:
    hidden = [f"{SENTENCES[100]} {DEV[3]}.", f"{' '.join(DEV[5].split()[2:11])}.", DEV[7].upper()]
    text = language_text(request(tmp_path, [*SENTENCES[40:], *hidden, *TRAIN[:2]], max_words=30))
    used = [*text.sentences, *text.held_out]
    assert not windows(used, 8) & windows(DEV, 8)
    assert text.counts.overlapping == len(hidden) + 2  # the teacher never reads training transcripts either
    assert windows(hidden, 8) & windows(DEV, 8)
    assert text.sentences[-20:] == TRAIN and text.transcripts == 20


def test_a_training_transcript_that_overlaps_a_measured_one_is_left_out_too(tmp_path: Path) -> None:
    asked = request(tmp_path, SENTENCES[40:])
    spoken = [*TRAIN, f"{DEV[0]} ba", "", "ba be"]
    text = language_text(TextRequest(**{**_fields(asked), "train": spoken}))
    assert (text.transcripts, text.transcripts_left_out) == (21, 1)
    assert text.sentences[-1] == "ba be"


def _fields(asked: TextRequest) -> dict[str, object]:
    return {name: getattr(asked, name) for name in TextRequest.__slots__}


def test_the_text_alone_holds_no_transcript_and_the_same_sentences(tmp_path: Path) -> None:
    both = language_text(request(tmp_path, SENTENCES[40:]))
    alone = language_text(request(tmp_path, SENTENCES[40:], transcripts=False))
    assert both.sentences == [*alone.sentences, *TRAIN] and both.held_out == alone.held_out
    assert alone.described()["transcripts"] == 0 and len(alone.held_out) > 5
    assert not set(alone.held_out) & set(both.sentences)


def test_every_input_is_in_the_recipe_and_a_missing_text_is_told(tmp_path: Path) -> None:
    asked = request(tmp_path, SENTENCES[40:])
    recipe = text_recipe(asked)
    changed = [request(tmp_path, SENTENCES[41:]), request(tmp_path, SENTENCES[40:], transcripts=False)]
    changed += [TextRequest(**{**_fields(asked), name: ["ba"]}) for name in ("train", "measured")]
    (tmp_path / "text.txt").write_text("other\n")
    assert all(text_recipe(one) != recipe for one in changed)
    (tmp_path / "text.txt").unlink()
    with pytest.raises(PipelineError, match="no such text"):
        text_recipe(asked)
    silent = {**_fields(asked), "paths": (), "train": []}
    with pytest.raises(PipelineError, match="no sentence is left"):
        language_text(TextRequest(**silent))


def test_words_are_foretold_from_the_first_lines(tmp_path: Path) -> None:
    num_words, sample = words_in(request(tmp_path, SENTENCES * 10), lines=10**6)
    assert num_words == 12 * (3000 + 20) and len(sample) == 3020
