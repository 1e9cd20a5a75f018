"""The teacher's training: the model's own loss, resumable, never on transcripts, better afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import WORDS, sentences, tiny_bert
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from teacher_cache.config import TeacherConfig, TeacherTrainingConfig
from teacher_cache.errors import CacheError
from teacher_cache.teacher_training.examples import SeededMasks, training_order
from teacher_cache.teacher_training.request import TeacherTrainingRequest
from teacher_cache.teacher_training.tokens import TokenTable, tokenise
from teacher_cache.teacher_training.train import train_teacher
from teacher_cache.teacher_training.trainer import MaskedTokenTrainer
from teacher_cache.teacher_training.transformers_trainer import training_arguments
from teacher_cache.teacher_training.vocabulary import make_tokenizer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads only wait for each other on models of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


CUES = {"sea": "blue", "see": "now", "red": "rose", "read": "book"}


def grammar(count: int, seed: int = 0) -> list[str]:
    """Sentences in which the last word decides the second."""
    random = np.random.default_rng(seed)
    words = "ship bird old dark night garden".split()
    spelling = random.choice(list(CUES), size=count)
    return [f"the {word} {' '.join(random.choice(words, size=3))} {CUES[word]}" for word in spelling]


def request(folder: Path, **changes: object) -> TeacherTrainingRequest:
    settings: dict[str, object] = dict(
        text=("text.txt",), vocabulary="words", num_layers=2, hidden_dim=32, num_heads=2, feed_forward_dim=64,
        max_positions=32, max_steps=60, batch_size=32, learning_rate=3e-3, dropout=0.1, overlap_words=5,
        held_out_fraction=0.05, save_every_steps=20,
    )  # fmt: skip
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("\n".join(grammar(2000)) + "\n")
    return TeacherTrainingRequest(
        config=TeacherTrainingConfig(**{**settings, **changes}),  # type: ignore[arg-type]
        teacher=TeacherConfig(name="tiny"),
        text_paths=(text,),
        transcripts=grammar(3, seed=9),
        normalise=str.lower,
        unspeakable=ValueError,
        normaliser={"name": "lower", "version": 1},
        output=folder / "teachers" / "tiny",
        scratch=folder / "scratch",
    )


def tiny_model(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "distilbert":
        small = DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, dropout=0.0)
        return DistilBertForMaskedLM(small)
    config, model = (BertConfig, BertForMaskedLM) if family == "bert" else (RobertaConfig, RobertaForMaskedLM)
    return model(
        config(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            hidden_dropout_prob=0.0,
        )
    )  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_loss_on_masked_rows_is_the_models_own_with_the_same_gradients(
    family: str, tmp_path: Path
) -> None:
    model = tiny_model(family).eval()
    arguments = training_arguments(request(tmp_path).config, tmp_path / "checkpoints", "cpu", False)
    trainer = MaskedTokenTrainer(model=model, args=arguments)
    ids = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(ids)
    attention[1, 4:] = 0
    labels = torch.full_like(ids, -100)
    labels[0, 2], labels[1, 1], labels[2, 6] = 7, 8, 9
    batch = {"input_ids": ids, "attention_mask": attention, "labels": labels}
    gradients = []
    for loss in (trainer.compute_loss(model, batch), model(**batch).loss):
        model.zero_grad()
        loss.backward()
        gradients.append((loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_the_projection_sees_masked_rows_alone(tmp_path: Path) -> None:
    model = tiny_model("bert")
    arguments = training_arguments(request(tmp_path).config, tmp_path / "checkpoints", "cpu", False)
    trainer = MaskedTokenTrainer(model=model, args=arguments)
    labels = torch.full((40, 8), -100)
    labels[:, 3] = 6
    ids = torch.full((40, 8), 9)
    _, outputs = trainer.compute_loss(model, {"input_ids": ids, "labels": labels}, return_outputs=True)
    assert outputs.logits.shape == (1, 64, 50)


def test_masks_follow_from_seed_and_place_alone() -> None:
    tokenizer = make_tokenizer("words", 0, None, sentences(50))
    masks = SeededMasks(tokenizer=tokenizer, seed=1)
    ids = np.arange(5, 15, dtype=np.int32)
    batch = [(40, ids), (41, ids[:4])]
    first, _, again = masks(batch), masks([(7, ids)]), masks(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    elsewhere = masks([(42, ids), (43, ids[:4])])
    assert not torch.equal(first["labels"], elsewhere["labels"])
    assert first["attention_mask"].tolist() == [[1] * 10, [1] * 4 + [0] * 6]
    assert (first["labels"][1, 4:] == -100).all()


def test_no_batch_is_without_a_question() -> None:
    tokenizer = make_tokenizer("words", 0, None, ["the sea"])
    masks = SeededMasks(tokenizer=tokenizer, seed=1, mlm_probability=0.05)
    the_sea = np.array(tokenizer("the sea")["input_ids"], dtype=np.int32)
    assert all((masks([(index, the_sea)])["labels"] != -100).any() for index in range(50))


def test_the_order_visits_every_sentence_once_per_epoch_in_batches_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, size=640)
    order = training_order(lengths, num_batches=20, batch_size=64, seed=1)
    assert np.array_equal(np.bincount(order, minlength=640), np.full(640, 2))
    batches = lengths[order].reshape(20, 64)
    assert 1 - batches.sum() / (batches.max(1) * 64).sum() < 0.08
    assert np.abs(np.diff(batches.mean(1))).max() > 10  # lengths do not creep up through the training


@pytest.mark.slow
def test_a_teacher_learns_a_grammar_and_its_folder_is_ordinary(tmp_path: Path) -> None:
    larger = dict(hidden_dim=64, feed_forward_dim=128, mask_fraction=0.3, dropout=0.0, learning_rate=1e-3)
    result = train_teacher(request(tmp_path, max_steps=400, save_every_steps=1000, **larger))
    assert result.after.masked_accuracy > result.before.masked_accuracy + 0.2
    assert result.after.perplexity < result.before.perplexity / 3
    assert result.on_transcripts is not None and result.on_transcripts.masked_tokens > 0
    assert sorted(path.name for path in (tmp_path / "teachers").iterdir()) == ["tiny"]
    assert not list((tmp_path / "scratch").iterdir())

    model = AutoModelForMaskedLM.from_pretrained(result.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert model.config._attn_implementation == "sdpa"  # eager was for training alone
    for word, cue in CUES.items():
        batch = tokenizer(f"the [MASK] old old old {cue}", return_tensors="pt")
        guess = model(**batch).logits[0, 2].argmax()
        assert tokenizer.convert_ids_to_tokens([int(guess)]) == [word]


def test_transcripts_and_their_neighbours_never_reach_training(tmp_path: Path) -> None:
    asked = request(tmp_path, max_steps=1)
    asked = replace(asked, transcripts=grammar(2000)[:500])
    result = train_teacher(asked)
    text = grammar(2000)
    left = [line for line in text if line not in set(asked.transcripts)]
    assert result.sentences.overlapping >= 2000 - len(left) > 0
    assert result.sentences.kept + result.sentences.overlapping == 2000


def test_a_second_call_reuses_the_finished_teacher_and_another_config_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path, max_steps=3)
    first = train_teacher(asked)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    second = train_teacher(replace(asked, config=replace(asked.config, save_every_steps=7)))
    assert (first.reused, second.reused) == (False, True)
    assert replace(second, reused=False) == first
    with pytest.raises(CacheError, match=r"config\.learning_rate: 0\.003 -> 0\.001"):
        train_teacher(replace(asked, config=replace(asked.config, learning_rate=1e-3)))
    with pytest.raises(CacheError, match="transcripts_sha256"):
        train_teacher(replace(asked, transcripts=["another"]))
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_folder_that_is_no_teacher_is_left_alone(tmp_path: Path) -> None:
    asked = request(tmp_path)
    asked.output.mkdir(parents=True)
    (asked.output / "thesis.txt").write_text("do not lose")
    with pytest.raises(CacheError, match="no teacher trained here"):
        train_teacher(asked)
    assert [path.name for path in asked.output.iterdir()] == ["thesis.txt"]


KILLED_RUN = """
import sys; from pathlib import Path; sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(1)
from test_teacher_training_train import request, train_teacher
train_teacher(request(Path({folder!r}), max_steps=4000))
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_very_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = train_teacher(request(tmp_path / "whole"))
    (tmp_path / "killed").mkdir()
    asked = request(tmp_path / "killed")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        # the third checkpoint is never begun: what is on the disk is that of a process killed after step 40
        original = MaskedTokenTrainer._save_checkpoint
        patch.setattr(
            MaskedTokenTrainer,
            "_save_checkpoint",
            lambda self, *args: interrupt() if self.state.global_step == 60 else original(self, *args),
        )
        with pytest.raises(KeyboardInterrupt):
            train_teacher(asked)
    assert not asked.output.exists()
    resumed = train_teacher(asked)
    assert (whole.resumed_step, resumed.resumed_step) == (0, 40)
    assert resumed.after == whole.after and resumed.before == whole.before
    left, right = (load_file(result.folder / "model.safetensors") for result in (whole, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.slow
def test_a_process_killed_in_training_leaves_no_teacher_and_a_checkpoint_to_go_on_from(
    tmp_path: Path,
) -> None:
    request(tmp_path)  # writes the text
    code = KILLED_RUN.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("scratch/*/checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(CacheError, match="held by process"):
        train_teacher(request(tmp_path, max_steps=4000))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "teachers").exists()


def test_adaptation_goes_on_from_a_folder_and_fits_the_text_better(tmp_path: Path) -> None:
    base = tiny_bert(tmp_path / "base", words=[*WORDS, *"sea blue now rose read book bird".split()])
    before = load_file(base / "model.safetensors")
    asked = request(tmp_path, max_steps=40, learning_rate=1e-3)
    result = train_teacher(replace(asked, teacher=TeacherConfig(name="tiny", model=str(base))))
    assert result.after.perplexity < result.before.perplexity / 2
    note = json.loads((result.folder / "bert2ctc_teacher.json").read_text())
    assert note["model"] == str(base)
    assert (result.folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert all(
        torch.equal(before[name], value) for name, value in load_file(base / "model.safetensors").items()
    )


def test_a_base_in_half_precision_is_trained_in_float32(tmp_path: Path) -> None:
    base = tiny_bert(tmp_path / "base")
    AutoModelForMaskedLM.from_pretrained(base, dtype=torch.float16).save_pretrained(base)
    assert {value.dtype for value in load_file(base / "model.safetensors").values()} == {torch.float16}
    asked = request(tmp_path, max_steps=2)
    result = train_teacher(replace(asked, teacher=TeacherConfig(name="tiny", model=str(base))))
    weights = load_file(result.folder / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert AutoModelForMaskedLM.from_pretrained(result.folder).dtype == torch.float32


def test_a_word_vocabulary_has_a_piece_for_every_word_and_spells_the_rest() -> None:
    tokenizer = make_tokenizer("words", 0, None, ["don't see the sea", "the naïve sea"])
    assert tokenizer.tokenize("the naïve don't see") == ["the", "naïve", "don't", "see"]
    assert tokenizer.tokenize("o'clock") == ["o", "##'", "##c", "##l", "##o", "##c", "##k"]
    letters = "abcdefghijklmnopqrstuvwxyz'"
    random = np.random.default_rng(0)
    for _ in range(200):
        word = "".join(random.choice(list(letters), size=int(random.integers(1, 150))))
        assert tokenizer.unk_token_id not in tokenizer(word)["input_ids"]


def test_a_word_vocabulary_survives_saving(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("words", 0, None, ["don't see the sea"])
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again("don't see me") == tokenizer("don't see me")
    assert again.is_fast and again.mask_token == "[MASK]"


def test_pieces_trained_on_the_text_are_the_same_twice_and_within_the_size() -> None:
    text = sentences(300)
    first, second = (make_tokenizer("wordpiece", 80, None, text).get_vocab() for _ in range(2))
    assert first == second and len(first) <= 80


def test_a_given_vocabulary_keeps_its_ids_and_must_hold_the_special_pieces(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sea", "##s"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(pieces) + "\n")
    tokenizer = make_tokenizer("vocab.txt", 0, path, [])
    assert tokenizer("the seas")["input_ids"] == [3, 6, 7, 8, 4]
    path.write_text("the\nsea\n")
    with pytest.raises(CacheError, match=r"lacks \[PAD\]"):
        make_tokenizer("vocab.txt", 0, path, [])
    with pytest.raises(CacheError, match="none.txt"):
        make_tokenizer("none.txt", 0, tmp_path / "none.txt", [])


def test_a_tokenizers_own_padding_and_cutting_do_not_reach_the_tokens() -> None:
    tokenizer = make_tokenizer("words", 0, None, ["don't see the sea"])
    plain = tokenise(tokenizer, ["the sea", "don't see the sea"], 9)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    tokenizer.backend_tokenizer.enable_truncation(4)
    table = tokenise(tokenizer, ["the sea", "don't see the sea"], 9)
    assert table.lengths.tolist() == [4, 6]
    assert table.ids.tolist() == plain.ids.tolist()


def test_tokens_survive_saving(tmp_path: Path) -> None:
    table = TokenTable(np.arange(5, dtype=np.int32), np.array([0, 2, 5]))
    table.save(tmp_path, "some")
    again = TokenTable.load(tmp_path, "some")
    assert len(again) == 2 and again[1].tolist() == [2, 3, 4] and again.lengths.tolist() == [2, 3]
