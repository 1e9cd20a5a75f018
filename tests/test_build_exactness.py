"""What a cache stores equals the plainest reference, whatever the texts, batches, K, policies and vocabulary.

The reference is Hugging Face's own model in float32, one masked copy per position, with all its logits and
its sums in float64. What is compared is read from a published Zarr cache with nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from build_helpers import build_request, entries_of
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from independent_reader import at_temperature, read_cache

from teacher_cache.build.request import BuildJob
from teacher_cache.build.shard import build_shard
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage, passages_of
from teacher_cache.store.manifest import Receipt
from teacher_cache.store.writer import CacheWriter, publish
from teacher_cache.teacher.masked_teacher import MaskedTeacher

MAX_TOKENS = 14
MAX_PIECES = MAX_TOKENS - 2  # beside [CLS] and [SEP]
MAX_WORD_PIECES = 5
SPECIALS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SPELT = [*"dmnto'", "##o", "##n"]  # of "don't" and "moon"
WIDE = 65_600  # pieces, so that ids take four bytes

STATED_ERROR = 1e-3  # of a stored log-probability
FLOAT_ERROR = 1e-4  # of a float32 forward pass in other batches; what lies nearer is tied
LOWEST = -65_534 / 2048  # stored for every smaller log-probability
ROUNDING = 1 / 4096  # of a stored log-probability, at most

# What is drawn is small already, and shrinking it would outlast the time limit of a test.
LAWS = settings(derandomize=True, phases=[Phase.generate])


@dataclass(frozen=True)
class Teacher:
    """A folder, and what the project and Hugging Face each make of it."""

    folder: Path
    words: Sequence[str]  # that transcripts hold
    ours: MaskedTeacher
    model: Any
    tokenizer: Any

    @staticmethod
    def make(
        folder: Path, words: Sequence[str], pieces: Sequence[str], bias: tuple[slice, float] = (np.s_[:0], 0)
    ) -> Teacher:
        """A tiny BERT with opinions; a bias favours some ids by so many nats."""
        from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertTokenizerFast

        vocabulary = [*SPECIALS, *pieces]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True)
        tokenizer.save_pretrained(folder)
        torch.manual_seed(3)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=MAX_TOKENS, **sizes)
        made = BertForMaskedLM(config)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(6.0)
            made.cls.predictions.bias[bias[0]] += bias[1]
        made.save_pretrained(folder)
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        return Teacher(folder, words, MaskedTeacher.load(folder), model, tokenizer)

    def pieces(self, words: str) -> list[list[int]]:
        """Ids of each word, tokenised alone."""
        return [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words.split()]

    def labels(self, passage: Passage, masking: str) -> tuple[np.ndarray, np.ndarray]:
        """gold int64 (U,) and log-probabilities float64 (U, V), by one forward pass for each position."""
        own = self.pieces(passage.text)
        before = [self.tokenizer.cls_token_id, *sum(self.pieces(passage.left), [])]
        after = [*sum(self.pieces(passage.right), []), self.tokenizer.sep_token_id]
        gold, logprobs, start = sum(own, []), [], len(before)
        for word in own:
            for index in range(start, start + len(word)):
                ids = torch.tensor([before + gold + after])
                hidden = range(start, start + len(word)) if masking == "whole_word" else [index]
                ids[0, list(hidden)] = self.tokenizer.mask_token_id
                with torch.no_grad():
                    logits = self.model(ids).logits[0, index]
                logprobs.append(logits.double().log_softmax(-1).numpy())
            start += len(word)
        return np.array(gold), np.stack(logprobs)


@pytest.fixture(scope="module")
def teacher_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Teacher]:
    """By what is extreme about it; a function, for hypothesis spells out every argument of a failing test."""
    many = [f"w{number}" for number in range(WIDE - len(SPECIALS))]
    words = ["sea", "a", "ship", "old", "don't", "moon"]
    made = {
        "two_pieces": (["sea", "a", "ship"], ["sea", "a"]),  # "ship" is an unknown piece
        "spelt_words": (words, [*words[:4], *SPELT]),
        "sure": (words, [*words[:4], *SPELT], (np.s_[8:9], 45.0)),  # of one piece; the others go below LOWEST
        "wide": (["w0", "w1", *many[-3:]], many, (np.s_[WIDE - 10 :], 12.0)),
    }
    teachers = {name: Teacher.make(tmp_path_factory.mktemp(name), *given) for name, given in made.items()}

    def teacher_of(kind: str) -> Teacher:
        return teachers[kind]

    return teacher_of


def test_the_extreme_teachers_are_extreme(teacher_of: Callable[[str], Teacher]) -> None:
    passage = Passage("", "w0 w1", "")
    for name, is_extreme in {
        "sure": lambda logprobs: np.sort(logprobs)[:, -2].max() < LOWEST,
        "wide": lambda logprobs: logprobs.argmax(1).min() > 65_535,
    }.items():
        assert is_extreme(teacher_of(name).labels(passage, "token")[1]), name


@dataclass(frozen=True)
class Drawn:
    """What is labelled and how."""

    texts: list[str]
    config: CacheConfig
    batch_tokens: int


def draw(data: st.DataObject, teacher: Teacher) -> Drawn:
    """Transcripts that fit the teacher with their context, some of a single piece and some that fill it."""
    context_words = data.draw(st.sampled_from([0, 0, 1, 2]), label="context_words")
    room = MAX_PIECES - context_words * MAX_WORD_PIECES
    words = st.lists(st.sampled_from(teacher.words), min_size=1, max_size=room)
    short = next(word for word in teacher.words if len(teacher.pieces(word)[0]) == 1)
    fitting = words.map(" ".join).filter(lambda text: len(sum(teacher.pieces(text), [])) <= room)
    text = st.one_of(fitting, st.sampled_from([short, " ".join([short] * room)]))
    config = CacheConfig(
        masking=data.draw(st.sampled_from(["token", "whole_word"]), label="masking"),
        context="chapter" if context_words else "utterance",
        context_words=context_words,
        top_k=data.draw(st.integers(1, min(len(teacher.ours.tokenizer.vocabulary) + 1, 20)), label="top_k"),
        temperatures=data.draw(st.sampled_from([(1.0,), (0.5, 1.0), (1.0, 2.0)]), label="temperatures"),
    )
    texts = data.draw(st.lists(text, min_size=1, max_size=4), label="texts")
    return Drawn(texts, config, data.draw(st.integers(1, 6 * MAX_TOKENS), label="batch_tokens"))


def build(root: Path, teacher: Teacher, drawn: Drawn) -> Path:
    """A published cache by all that a build does, in this process and without a scheduler."""
    job = BuildJob.of(
        build_request(
            teacher.folder,
            root,
            drawn.texts,
            drawn.config,
            BuildConfig(workers=1, batch_tokens=drawn.batch_tokens),
        )
    )
    job.tokenizer = teacher.ours.tokenizer  # loaded once for all that is drawn
    plan = job.plan()
    layout = job.layout(plan)
    writer = CacheWriter.create(job.building, layout)
    writer.write_passages(job.starts, job.lengths, job.corpus.digests)
    writer.write_vocabulary(job.tokenizer.vocabulary, job.tokenizer.is_special)
    assert isinstance(build_shard(job.task(plan, 0), "cpu"), Receipt)
    return publish(job.building, root, job.manifest(layout))


def assert_exact(
    labels: dict[str, np.ndarray],
    gold: np.ndarray,
    logprobs: np.ndarray,
    is_special: np.ndarray,
    config: CacheConfig,
) -> None:
    """The stored labels of one passage, against float64 over the whole vocabulary."""
    top_id = labels["top_id"].astype(np.int64)
    top_k = min(config.top_k, int((~is_special).sum()))
    np.testing.assert_array_equal(labels["gold_id"], gold)
    np.testing.assert_allclose(
        labels["gold_logprob"], logprobs[np.arange(len(gold)), gold], rtol=0, atol=FLOAT_ERROR
    )

    assert top_id.shape == (len(gold), top_k)
    assert not is_special[top_id].any()
    assert all(len(set(row)) == top_k for row in top_id.tolist())
    # The j-th id is the j-th likeliest, or one that float32 cannot tell from it.
    chosen = np.take_along_axis(logprobs, top_id, 1)
    best = -np.sort(-np.where(is_special, -np.inf, logprobs), 1)[:, :top_k]
    np.testing.assert_allclose(chosen, best, rtol=0, atol=FLOAT_ERROR)
    np.testing.assert_allclose(labels["top_logprob"], np.maximum(chosen, LOWEST), rtol=0, atol=STATED_ERROR)

    outside = logprobs.copy()
    np.put_along_axis(outside, top_id, -np.inf, 1)
    for column, temperature in enumerate(config.temperatures):
        lognorm = np.logaddexp.reduce(logprobs / temperature, axis=1)
        tail = np.logaddexp.reduce(outside / temperature, axis=1) - lognorm
        bound = FLOAT_ERROR * max(1.0, 1 / temperature)
        np.testing.assert_allclose(labels["lognorm"][:, column], lognorm, rtol=0, atol=bound)
        np.testing.assert_allclose(labels["tail_logprob"][:, column], tail, rtol=0, atol=bound)
        kept, beyond = at_temperature(labels, config.temperatures, temperature, top_k)
        mass = np.exp(kept.astype(np.float64)).sum(1) + np.exp(beyond.astype(np.float64))
        np.testing.assert_allclose(mass, 1, rtol=0, atol=(ROUNDING + FLOAT_ERROR) * max(1.0, 1 / temperature))


def assert_laws(data: st.DataObject, teacher: Teacher) -> None:
    drawn = draw(data, teacher)
    with TemporaryDirectory() as root:
        _, pieces, is_special, found = read_cache(build(Path(root), teacher, drawn))
    assert pieces == teacher.tokenizer.convert_ids_to_tokens(range(len(teacher.tokenizer)))
    assert [pieces[special] for special in np.flatnonzero(is_special)] == SPECIALS
    passages = passages_of(entries_of(drawn.texts), drawn.config)
    assert found.keys() == {passage.digest for passage in passages}
    for passage in set(passages):
        labels = found[passage.digest]
        assert labels["gold_id"].dtype == labels["top_id"].dtype == ("<u4" if len(pieces) == WIDE else "<u2")
        assert_exact(labels, *teacher.labels(passage, drawn.config.masking), is_special, drawn.config)


@pytest.mark.parametrize("kind", ["two_pieces", "spelt_words", "sure"])
@given(st.data())
@settings(LAWS, max_examples=20)
def test_stored_labels_are_those_of_one_copy_per_position_with_all_logits(
    teacher_of: Callable[[str], Teacher], kind: str, data: st.DataObject
) -> None:
    assert_laws(data, teacher_of(kind))


@given(st.data())
@settings(LAWS, max_examples=6)
def test_so_are_those_of_a_vocabulary_whose_ids_take_four_bytes(
    teacher_of: Callable[[str], Teacher], data: st.DataObject
) -> None:
    assert_laws(data, teacher_of("wide"))


@given(st.data())
@settings(LAWS, max_examples=10)
def test_a_text_above_the_limit_is_refused_by_name_among_any_others(
    teacher_of: Callable[[str], Teacher], data: st.DataObject
) -> None:
    teacher = teacher_of("spelt_words")
    drawn = draw(data, teacher)
    long = " ".join(["old"] * (MAX_PIECES + data.draw(st.integers(1, 2 * MAX_TOKENS), label="excess")))
    index = data.draw(st.integers(0, len(drawn.texts)), label="index")
    texts = [*drawn.texts[:index], long, *drawn.texts[index:]]
    reported = rf"^passage 'old old.* takes \d+ tokens, the teacher reads {MAX_TOKENS}; lower context_words"
    with TemporaryDirectory() as root:
        with pytest.raises(CacheError, match=reported):
            build(Path(root), teacher, replace(drawn, texts=texts))
        assert not list(Path(root).iterdir())
