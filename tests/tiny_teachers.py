"""Tiny teachers of every family that is read, with random weights: BERT, DistilBERT, RoBERTa."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from fakes import WORDS, tiny_bert

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model


def tiny_distilbert(folder: Path) -> Path:
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    tiny_bert(folder)
    (folder / "model.safetensors").unlink()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    torch.manual_seed(1)
    config = DistilBertConfig(
        vocab_size=len(tokenizer["model"]["vocab"]),
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=64,
    )
    sharpened(DistilBertForMaskedLM(config)).save_pretrained(folder)
    return folder


def tiny_roberta(folder: Path) -> Path:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizerFast

    folder.mkdir(exist_ok=True)
    trained = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([" ".join(WORDS[:25])] * 3, 290, special_tokens=specials, show_progress=False)
    trained.save_model(str(folder))
    vocabulary, merges = str(folder / "vocab.json"), str(folder / "merges.txt")
    RobertaTokenizerFast.from_pretrained(folder, vocab_file=vocabulary, merges_file=merges).save_pretrained(
        folder
    )
    torch.manual_seed(2)
    config = RobertaConfig(
        vocab_size=trained.get_vocab_size(), max_position_embeddings=66, pad_token_id=1, **SIZES
    )
    sharpened(RobertaForMaskedLM(config)).save_pretrained(folder)
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "bert": tiny_bert,
    "bert_of_one_layer": partial(tiny_bert, num_layers=1),
    "distilbert": tiny_distilbert,
    "roberta": tiny_roberta,
}
