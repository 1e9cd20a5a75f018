"""A teacher whose every weight and piece is a function of nothing but this file: the golden labels' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PIECES = (
    "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK] the a sea see sails ship old deep night falls dark knight "
    "rides horse brave bread flower grows s t m o n ' ##s ##t ##m ##o ##n ##light ##er ##ing"
).split()
TEXTS = (
    "the old ship sails",
    "a knight rides",
    "the sea",
    "see the deep dark sea",
    "night falls",
    "the brave knight sees the sea",
    "bread",
    "a flower grows",
    "the nightlight falls",
    "see the knight's horse",
    "don't see the ship",
    "an old horse",
    "the deeper sea",
    "night",
    "the knight sails the dark deep sea see the old ship",
    "the the the",
    "sailing",
    "a brave old knight rides a brave old horse",
    "flower bread",
    "see a sea",
)
_SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def golden_bert(folder: Path) -> Path:
    """A Hugging Face folder whose weights come from numpy's frozen generator: no version moves them."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    model = BertForMaskedLM(BertConfig(vocab_size=len(PIECES), **_SIZES))
    random = np.random.RandomState(20)  # its stream is promised never to change
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            is_scale = name.endswith("LayerNorm.weight")  # small ones would leave no opinion behind
            values = is_scale + (0.1 if is_scale else 0.6) * random.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(values))
    model.save_pretrained(folder)
    return folder
