"""ARPA files: what is written is read again; what is broken is one line that says where."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.language_model.arpa import read_arpa
from pipeline.language_model.arpa_writer import write_arpa
from pipeline.language_model.kneser_ney import estimate_ngrams

GOOD = (
    "anything may stand here\n\n"
    "\\data\\\nngram 1=4\nngram  2 = 2\n\n\\1-grams:\n-1.5\t<unk>\n-99\t<s>\t-0.5\n"
    "-0.7\t</s>\n-0.4 a\t-0.25\n\n\\2-grams:\n-0.3\t<s> a\n-0.2\ta </s>\n\n\\end\\\n"
)


def read(text: str | bytes, folder: Path, name: str = "a.arpa") -> object:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_arpa(path)


def test_a_foreign_file_is_read(tmp_path: Path) -> None:
    """Text before the head, spaces for tabs, words without a back-off weight, as SRILM writes them."""
    model = read(GOOD, tmp_path)
    assert model.words == ("<unk>", "<s>", "</s>", "a")
    assert model.orders[0].backoff.tolist() == pytest.approx([0, -0.5, 0, -0.25])
    assert model.orders[0].log_prob.tolist() == pytest.approx([-1.5, -99, -0.7, -0.4])
    assert model.word_ids(2, np.arange(2)).tolist() == [[1, 3], [3, 2]]
    packed = read(gzip.compress(GOOD.replace("\n", "\r\n").encode()), tmp_path, "a.arpa.gz")
    assert packed.orders[1].log_prob.tolist() == model.orders[1].log_prob.tolist()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "▁the", "é\u00a0", "\\x"]), max_size=6), min_size=1, max_size=9
    ),
    st.integers(2, 4),
    st.sampled_from(["m.arpa", "m.arpa.gz"]),
)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[str]], order: int, name: str
) -> None:
    model = estimate_ngrams(sentences, order).model
    path = tmp_path_factory.mktemp("arpa") / name
    write_arpa(model, path)
    again = read_arpa(path)
    assert again.words == model.words
    for one, other in zip(again.orders, model.orders, strict=True):
        assert np.array_equal(one.context, other.context) and np.array_equal(one.word, other.word)
        assert np.allclose(one.log_prob, other.log_prob, atol=1e-6)
        assert np.allclose(one.backoff, other.backoff, atol=1e-6)
    first = path.read_bytes()
    write_arpa(again, path)
    assert path.read_bytes() == first


BROKEN = {
    "no head": ("-1 a\n", "no ARPA file"),
    "empty": ("", "no ARPA file"),
    "a count too many": (
        GOOD.replace("ngram  2 = 2", "ngram 2=3"),
        "holds 2 2-grams from line 13 on; its head says 3",
    ),
    "a count too few": (GOOD.replace("ngram 1=4", "ngram 1=3"), "holds 4 1-grams"),
    "counts out of order": (GOOD.replace("ngram 1=4", "ngram 3=4"), "counts 3-grams where 1-grams"),
    "no counts": ("\\data\\\n\\1-grams:\n", "before any word is counted"),
    "cut short": (GOOD.removesuffix("\\end\\\n"), "cut short"),
    "a section is missing": (GOOD.replace("\\2-grams:", "\\3-grams:"), "where .2-grams: is expected"),
    "no number": (GOOD.replace("-0.3\t", "x\t"), "line 14 holds 'x' where a number is expected"),
    "NaN": (GOOD.replace("-0.3\t", "nan\t"), "line 14 holds 'nan', which is no log-probability"),
    "a positive logarithm": (GOOD.replace("-0.3\t", "0.3\t"), "no log-probability, at most 0"),
    "an infinite weight": (GOOD.replace("-0.5", "inf"), "'inf', which is no log-probability"),
    "too many fields": (GOOD.replace("<s> a", "<s> a a a"), "has 5 fields"),
    "a weight in the highest order": (GOOD.replace("<s> a", "<s> a\t-1"), "has 4 fields"),
    "another word": (GOOD.replace("<s> a", "<s> b"), "holds 'b', which is no word"),
    "a word twice": (GOOD.replace("<unk>", "a"), "line 11 holds the word 'a' a second time"),
    "an n-gram twice": (GOOD.replace("a </s>", "<s> a"), "line 15 holds an n-gram a second time"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_line(kind: str, tmp_path: Path) -> None:
    text, told = BROKEN[kind]
    with pytest.raises(PipelineError, match=told) as caught:
        read(text, tmp_path)
    assert "\n" not in str(caught.value) and "a.arpa: " in str(caught.value)
    assert "`bert2ctc lm ngram`" in str(caught.value)


def test_a_history_without_its_weight_is_told(tmp_path: Path) -> None:
    text = GOOD.replace("ngram  2 = 2\n", "ngram 2=2\nngram 3=1\n").replace(
        "\\end\\", "\\3-grams:\n-0.1\ta a </s>\n\n\\end\\"
    )
    with pytest.raises(PipelineError, match="line 19 follows 'a a', which is no 2-gram.*weight is missing"):
        read(text, tmp_path)


def test_what_is_no_utf8_and_no_gzip_is_told(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="line 14 is not UTF-8 .byte 0xff"):
        read(GOOD.encode().replace(b"<s> a", b"<s> \xff"), tmp_path)
    with pytest.raises(PipelineError, match="no whole gzip file"):
        read(GOOD, tmp_path, "a.arpa.gz")
    with pytest.raises(PipelineError, match="no whole gzip file"):
        read(gzip.compress(GOOD.encode())[:-20], tmp_path, "a.arpa.gz")
    with pytest.raises(PipelineError, match="no such file"):
        read_arpa(tmp_path / "absent.arpa")
