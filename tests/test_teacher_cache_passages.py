from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage, passages_of

TEXT = st.text(alphabet="ab ' é\x00", max_size=6)
PARTS = st.tuples(TEXT, TEXT, TEXT)


@dataclass(frozen=True)
class Entry:
    id: str
    text: str
    chapter: str = ""
    position: int = 0


def chapter_config(words: int) -> CacheConfig:
    return CacheConfig(context="chapter", context_words=words)


@given(PARTS, PARTS)
def test_digests_are_equal_exactly_where_all_three_parts_are(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert (Passage(*one).digest == Passage(*other).digest) == (one == other)


@given(TEXT, TEXT, TEXT)
def test_a_digest_knows_where_context_ends_and_text_begins(left: str, text: str, right: str) -> None:
    moved = {
        Passage(left + text, "", right),
        Passage("", left + text, right),
        Passage("", left, text + right),
    }
    assert len({passage.digest for passage in moved}) == len(moved)


def test_a_digest_is_sixteen_bytes_that_never_change() -> None:
    assert Passage("a b", "c", "").digest.hex() == "679c367a4d0116366cd1763d01944abf"


def test_without_context_only_the_text_counts() -> None:
    entries = [Entry("1", "a b", "x", 0), Entry("2", "c", "x", 1)]
    renamed = [replace(entry, id=entry.id + "z", chapter="", position=0) for entry in entries]
    assert passages_of(entries, CacheConfig()) == [Passage("", "a b", ""), Passage("", "c", "")]
    assert passages_of(renamed, CacheConfig()) == passages_of(entries, CacheConfig())


@st.composite
def corpora(draw: st.DrawFn) -> list[Entry]:
    """Utterances of 1..5 words, every word its own, in up to three chapters."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=14))
    entries = []
    for number, length in enumerate(lengths):
        chapter = str(draw(st.integers(0, 2)))
        words = " ".join(f"u{number}w{word}" for word in range(length))
        entries.append(Entry(f"id{number}", words, chapter, position=10 * number))
    return entries


@given(corpora(), st.integers(1, 20))
def test_context_is_whole_neighbours_of_the_chapter_as_many_as_fit(entries: list[Entry], budget: int) -> None:
    for entry, passage in zip(entries, passages_of(entries, chapter_config(budget)), strict=True):
        texts = [other.text for other in entries if other.chapter == entry.chapter]
        here = texts.index(entry.text)
        assert passage.text == entry.text
        words = len(passage.left.split()) + len(passage.right.split())
        assert words <= budget
        left = next(n for n in range(here + 1) if " ".join(texts[here - n : here]) == passage.left)
        right = next(
            n for n in range(len(texts)) if " ".join(texts[here + 1 : here + 1 + n]) == passage.right
        )
        # Each side ends at the chapter's edge or where its next neighbour no longer fits.
        for edge in (here - left - 1, here + right + 1):
            if 0 <= edge < len(texts):
                assert len(texts[edge].split()) > budget - words


def test_sides_alternate_and_the_left_begins() -> None:
    entries = [Entry(str(number), f"w{number}", "x", number) for number in range(9)]
    contexts = [passages_of(entries, chapter_config(words))[4] for words in (1, 2, 3, 4)]
    assert [(passage.left, passage.right) for passage in contexts] == [
        ("w3", ""),
        ("w3", "w5"),
        ("w2 w3", "w5"),
        ("w2 w3", "w5 w6"),
    ]


@given(corpora(), st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_order_of_the_manifest_changes_no_passage(
    entries: list[Entry], budget: int, order: random.Random
) -> None:
    shuffled = order.sample(entries, len(entries))
    config = chapter_config(budget)
    passages = dict(zip([entry.id for entry in entries], passages_of(entries, config), strict=True))
    assert passages_of(shuffled, config) == [passages[entry.id] for entry in shuffled]


def test_one_sentence_in_two_chapters_is_two_passages_and_a_swap_changes_them() -> None:
    entries = [
        Entry("1", "a", "x", 0),
        Entry("2", "s", "x", 1),
        Entry("3", "b", "y", 0),
        Entry("4", "s", "y", 1),
    ]
    config = chapter_config(5)
    passages = passages_of(entries, config)
    assert passages[1].digest != passages[3].digest
    swapped = [replace(entries[0], position=1), replace(entries[1], position=0), *entries[2:]]
    assert {p.digest for p in passages_of(swapped, config)} != {p.digest for p in passages}


def test_a_chapter_that_cannot_be_ordered_is_refused() -> None:
    with pytest.raises(CacheError, match="'1' names no chapter"):
        passages_of([Entry("1", "a")], chapter_config(5))
    with pytest.raises(CacheError, match="'1' and '2' share position 0 of chapter 'x'"):
        passages_of([Entry("1", "a", "x"), Entry("2", "b", "x")], chapter_config(5))


def test_no_entries_make_no_passages() -> None:
    assert passages_of([], CacheConfig()) == passages_of([], chapter_config(5)) == []
