"""Text for the teacher: cut like transcripts, nothing unspeakable, nothing that it will label."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from fakes import WORDS, sentences
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.errors import CacheError
from teacher_cache.teacher_training.text import (
    SentenceCounts,
    SentenceRules,
    TranscriptOverlap,
    cut_paragraph,
    is_held_out,
    sample_sentences,
)


class DigitError(Exception):
    pass


def normalise(text: str) -> str:
    if any(character.isdigit() for character in text):
        raise DigitError
    kept = "".join(character if character.isalpha() or character == "'" else " " for character in text)
    return " ".join(kept.lower().split())


def rules(max_words: int = 12, overlap_words: int = 3) -> SentenceRules:
    return SentenceRules(
        normalise=normalise, unspeakable=DigitError, max_words=max_words, overlap_words=overlap_words
    )


def overlaps_by_hand(sentence: str, transcripts: list[str], length: int) -> bool:
    words = f" {sentence} "
    windows = (
        transcript.split()[start : start + length]
        for transcript in transcripts
        for start in range(len(transcript.split()) - length + 1)
    )
    return sentence in transcripts or any(f" {' '.join(window)} " in words for window in windows)


few_words = st.lists(st.sampled_from("a b c dd".split()), min_size=1, max_size=9).map(" ".join)


@given(st.lists(few_words, max_size=6), st.lists(few_words, max_size=4), st.integers(1, 5))
def test_a_sentence_overlaps_exactly_where_a_search_by_hand_finds_it(
    text: list[str], transcripts: list[str], length: int
) -> None:
    found = TranscriptOverlap(transcripts, length).overlaps(text)
    assert found.tolist() == [overlaps_by_hand(sentence, transcripts, length) for sentence in text]


def test_no_overlap_runs_across_two_sentences() -> None:
    overlap = TranscriptOverlap(["one two three four"], 4)
    assert not overlap.overlaps(["one two", "three four"]).any()
    assert overlap.overlaps(["zero one two three four five"]).all()


@given(st.text(alphabet="abc ,.;!?-—\"'1\n", max_size=200), st.integers(1, 9))
def test_pieces_hold_every_speakable_word_in_order_and_are_never_too_long(text: str, limit: int) -> None:
    counts = SentenceCounts()
    pieces = cut_paragraph(text, rules(max_words=limit), counts)
    assert all(0 < len(piece.split()) <= limit for piece in pieces)
    if not counts.unspeakable:
        joined = " ".join(pieces).replace("'", " ").split()
        assert joined == normalise(text).replace("'", " ").split()


def test_unspeakable_sentences_are_dropped_and_counted_and_never_bridged() -> None:
    counts = SentenceCounts()
    text = 'He came. "In 1912 he left." She stayed. All was well; it was 12 o\'clock.'
    assert cut_paragraph(text, rules(), counts) == ["he came", "she stayed all was well"]
    assert counts.unspeakable == 2


def test_an_abbreviation_ends_no_sentence() -> None:
    assert cut_paragraph("Here is Mr. Fox. He is 5.", rules(), SentenceCounts()) == ["here is mr fox"]


def test_short_sentences_are_joined_and_long_ones_cut_evenly() -> None:
    pieces = cut_paragraph("one two. three four. " + "word " * 9, rules(max_words=4), SentenceCounts())
    assert [len(piece.split()) for piece in pieces] == [4, 3, 3, 3]


def test_the_sample_leaves_out_what_is_transcribed_and_counts_everything(tmp_path: Path) -> None:
    text = sentences(300, seed=3, words=WORDS[:9])
    (tmp_path / "text.txt").write_text("\n".join([*text, "17 ships"]) + "\n")
    transcripts = text[:40]
    sample, counts = sample_sentences([tmp_path / "text.txt"], rules(), transcripts, 1000, seed=1)
    left = [sentence for sentence in text if not overlaps_by_hand(sentence, transcripts, 3)]
    assert sorted(sample) == sorted(left)
    assert (counts.kept, counts.unspeakable, counts.overlapping) == (len(left), 1, len(text) - len(left))


def test_a_small_sample_is_the_beginning_of_a_large_one_and_knows_no_file_order(tmp_path: Path) -> None:
    text = sentences(500, seed=4)
    (tmp_path / "a.txt").write_text("\n".join(text) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(reversed(text)) + "\n")
    large, _ = sample_sentences([tmp_path / "a.txt"], rules(), [], 500, seed=1)
    small, counts = sample_sentences([tmp_path / "b.txt"], rules(), [], 20, seed=1)
    assert small == large[:20]
    assert counts.kept == 500
    other, _ = sample_sentences([tmp_path / "b.txt"], rules(), [], 20, seed=2)
    assert small != other


def test_several_processes_draw_and_count_what_one_does(tmp_path: Path) -> None:
    text = sentences(9000, seed=6)
    (tmp_path / "text.txt").write_text("\n".join([*text, "17 ships"]) + "\n")
    alone, together = (
        sample_sentences([tmp_path / "text.txt"], rules(), text[:40], 5000, seed=1, workers=workers)
        for workers in (1, 2)
    )
    assert together == alone
    assert len(alone[0]) == 5000 and alone[1].overlapping >= 40 and alone[1].unspeakable == 1


@pytest.mark.parametrize("suffix", ["txt", "xz", "gz"])
def test_compressed_text_reads_like_plain_text(tmp_path: Path, suffix: str) -> None:
    content = ("the sea\na ship\n" * 3000).encode()
    write = {"txt": lambda path: path.open("wb"), "xz": lzma.open, "gz": gzip.open}[suffix]
    path = tmp_path / f"text.{suffix}"
    with write(path) if suffix == "txt" else write(path, "wb") as stream:
        stream.write(content)
    _, counts = sample_sentences([path], rules(), [], 10, seed=1)
    assert counts.kept == 6000


def test_absent_broken_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cut.xz").write_bytes(lzma.compress(b"the sea\n" * 9000)[:-30])
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    for name in ("none.txt", "cut.xz", "latin.txt"):
        with pytest.raises(CacheError, match=name):
            sample_sentences([tmp_path / name], rules(), [], 10, seed=1)


def test_held_out_sentences_are_about_the_fraction_asked_for() -> None:
    text = sentences(4000, seed=5)
    share = np.mean([is_held_out(sentence, 0.1, seed=1) for sentence in text])
    assert 0.08 < share < 0.12
