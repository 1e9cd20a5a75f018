"""Which teachers are refused, each in words: without a head, pickled, of another family, with NaN."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny_bert
from tiny_teachers import FAMILIES, SIZES

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage
from teacher_cache.teacher.identity import hashed_files, identify_teacher
from teacher_cache.teacher.masked_teacher import MaskedTeacher, require_scorable
from teacher_cache.teacher.tokenizer import PassageTokenizer


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_teacher_that_yields_nan_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    def poison(weights: dict[str, torch.Tensor]) -> None:
        weights["bert.encoder.layer.1.output.dense.bias"][3] = float("nan")

    teacher = MaskedTeacher.load(rewrite_weights(copied(bert_folder, tmp_path / "nan"), poison))
    encoded = teacher.tokenizer.encode([Passage("", "sea", "")])
    wanted = np.ones(encoded[0].own_length, dtype=bool)
    with pytest.raises(CacheError, match="NaN or infinity for passage 'sea'"):
        teacher.score(encoded, wanted, CacheConfig(top_k=8), 64)


def test_a_teacher_without_its_head_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    def behead(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.startswith("cls.predictions.transform")]:
            del weights[name]

    headless = rewrite_weights(copied(bert_folder, tmp_path / "headless"), behead)
    for refuse in (MaskedTeacher.load, require_scorable):
        with pytest.raises(CacheError, match="weights are missing, among them cls.predictions.transform"):
            refuse(headless)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_can_be_loaded_may_be_planned_with(family: str, tmp_path: Path) -> None:
    require_scorable(FAMILIES[family](tmp_path / family))


def test_a_tokenizer_of_another_model_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    folder = copied(bert_folder, tmp_path / "mixed")
    other = tiny_bert(tmp_path / "other", words=["ship", "sea"])
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copy(other / name, folder / name)
    with pytest.raises(CacheError, match=r"the tokenizer knows \d+ pieces, the model \d+"):
        MaskedTeacher.load(folder)


def test_a_pickled_teacher_is_never_opened(bert_folder: Path, tmp_path: Path) -> None:
    folder = copied(bert_folder, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CacheError, match="not a masked language model in safetensors"):
        MaskedTeacher.load(folder)


WEIGHTS_AND_TABLES = ["model.safetensors", "config.json", "tokenizer.json"]


@pytest.mark.parametrize("name", [*WEIGHTS_AND_TABLES, "generation_config.json"])
def test_a_pipe_in_a_teachers_folder_is_not_waited_for(name: str, bert_folder: Path, tmp_path: Path) -> None:
    """Whether transformers would open it or not: what it opens is its own affair."""
    folder = copied(bert_folder, tmp_path / "piped")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    told = rf"{name}.* is a pipe, not a file; restore the teacher's folder"
    for refuse in (identify_teacher, require_scorable, MaskedTeacher.load, PassageTokenizer.load):
        with pytest.raises(CacheError, match=told):
            refuse(folder)
    if name in WEIGHTS_AND_TABLES:
        with pytest.raises(CacheError, match=told):
            hashed_files(folder)


def test_another_family_is_told_which_are_known(bert_folder: Path, tmp_path: Path) -> None:
    from transformers import ElectraConfig, ElectraForMaskedLM

    folder = copied(bert_folder, tmp_path / "electra")
    config = ElectraConfig(vocab_size=96, embedding_size=32, max_position_embeddings=64, **SIZES)
    ElectraForMaskedLM(config).save_pretrained(folder)
    for refuse in (MaskedTeacher.load, require_scorable):
        with pytest.raises(CacheError, match=r"'electra' model.*bert, roberta, distilbert"):
            refuse(folder)
