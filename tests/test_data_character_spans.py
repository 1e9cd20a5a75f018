"""Two tokenizers of one text meet at its characters, whatever marks they use."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from student.data.character_spans import unit_spans

LETTERS = "aBé'x"
texts = st.lists(st.text(LETTERS, min_size=1, max_size=7), min_size=1, max_size=5).map(" ".join)


def cut(word: str, data: st.DataObject) -> list[str]:
    indices = sorted(data.draw(st.sets(st.integers(1, max(1, len(word) - 1)), max_size=3)))
    return [part for part in np.array_split([*word], [p for p in indices if p < len(word)]) if len(part)]


def pieces_of(text: str, kind: str, data: st.DataObject) -> tuple[list[str], list[tuple[int, int]]]:
    """Pieces of a kind of tokenizer, and the characters (spaces left out) that each covers."""
    pieces, spans, position = [], [], 0
    for number, word in enumerate(text.split()):
        for index, letters in enumerate(cut(word, data)):
            part = "".join(letters)
            spans.append((position, position + len(part)))
            position += len(part)
            marks = {"wordpiece": "##" if index else "", "sentencepiece": "" if index else "▁"}
            if kind == "wordpiece":  # an uncased one
                part = part.replace("é", "e").lower()
            if kind == "bytes":
                shown = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
                    part
                )[0][0]
                pieces.append(("Ġ" if number and not index else "") + shown)
            elif kind == "spaces apart" and number and not index:
                pieces += ["▁", part]
                spans.insert(-1, (spans[-1][0], spans[-1][0] + 1))
            else:
                pieces.append(marks.get(kind, "") + part)
    return pieces, spans


KINDS = st.sampled_from(["wordpiece", "sentencepiece", "bytes", "plain", "spaces apart"])


@given(texts, KINDS, st.sampled_from(["sentencepiece", "plain"]), st.data())
def test_a_piece_has_the_units_that_share_its_characters(
    text: str, kind: str, unit_kind: str, data: st.DataObject
) -> None:
    pieces, covered = pieces_of(text, kind, data)
    units, owned = pieces_of(text, unit_kind, data)
    spans = unit_spans(pieces, units, text, whole_words=False)
    assert spans is not None and len(spans) == len(pieces) + 1
    for (start, stop), (begin, end) in zip(spans, covered, strict=False):
        sharing = [n for n, (b, e) in enumerate(owned) if b < end and e > begin]
        assert list(range(start, stop)) == sharing
    assert spans[-1].tolist() == spans[-2].tolist()


@given(texts, KINDS, st.data())
def test_whole_words_are_the_units_of_every_word_that_a_piece_touches(
    text: str, kind: str, data: st.DataObject
) -> None:
    pieces, covered = pieces_of(text, kind, data)
    letters = [letter for letter in text if letter != " "]
    word_of = [n for n, word in enumerate(text.split()) for _ in word]
    spans = unit_spans(pieces, letters, text, whole_words=True)
    assert spans is not None
    for (start, stop), (begin, end) in zip(spans, covered, strict=False):
        touched = set(word_of[begin:end])
        assert list(range(start, stop)) == [n for n, word in enumerate(word_of) if word in touched]


@given(texts, st.data())
def test_what_does_not_spell_the_text_is_not_guessed(text: str, data: st.DataObject) -> None:
    units, _ = pieces_of(text, "sentencepiece", data)
    assert unit_spans(["[UNK]", *units[1:]], units, text, whole_words=False) is None
    assert unit_spans([*units, "[UNK]"], units, text, whole_words=False) is None
    assert unit_spans(units, units[1:], text, whole_words=False) is None
    assert unit_spans([], units, text, whole_words=False) is None
