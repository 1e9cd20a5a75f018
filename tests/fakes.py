"""Small real things for the tests: a tiny BERT with a word-level vocabulary, and speech-like FLAC files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE_HZ = 16_000
WORDS = (
    "the a old ship sails on deep sea we see birds with our eyes night falls dark knight rides horse "
    "brave flour makes bread flower grows garden red right answer write letter long story is near by"
).split()


def sentences(count: int, seed: int = 0, words: Sequence[str] = WORDS, max_words: int = 9) -> list[str]:
    """Distinct random sentences over `words`."""
    random = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(random.choice(words, size=int(random.integers(1, max_words + 1))))] = None
    return list(found)


def tiny_bert(
    folder: Path,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    max_positions: int = 64,
    num_layers: int = 2,
) -> Path:
    """A real BertForMaskedLM with seeded random weights, as an ordinary Hugging Face folder."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
    pieces += [letter for letter in "abcdefghijklmnopqrstuvwxyz'" if letter not in pieces]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz'"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=max_positions,
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():  # sharpen: at initialisation every distribution is nearly flat
        for parameter in model.parameters():
            parameter.mul_(4.0)
    model.save_pretrained(folder)
    return folder


def write_corpus(
    root: Path,
    texts: Sequence[str],
    seed: int = 0,
    suffix: str = "flac",
    folder: str = "train",
    first_speaker: int = 100,
) -> Path:
    """A LibriSpeech-layout folder of tones, one pitch per letter, so that there is something to learn."""
    chapters: dict[Path, list[str]] = {}
    for index, text in enumerate(texts):
        speaker, chapter = first_speaker + index % 3, 7
        chapter_folder = root / folder / str(speaker) / str(chapter)
        chapter_folder.mkdir(parents=True, exist_ok=True)
        utterance_id = f"{speaker}-{chapter}-{index:04d}"
        soundfile.write(
            chapter_folder / f"{utterance_id}.{suffix}", tones(text, seed + index), SAMPLE_RATE_HZ
        )
        chapters.setdefault(chapter_folder / f"{speaker}-{chapter}.trans.txt", []).append(
            f"{utterance_id} {text.upper()}"
        )
    for path, lines in chapters.items():
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / folder


def tones(text: str, seed: int = 0, letter_seconds: float = 0.08) -> np.ndarray:
    """Float32 samples in -1..1: 80 ms of a sine per letter, silence per space, a little noise."""
    random = np.random.default_rng(seed)
    time = np.arange(int(letter_seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    parts = [
        np.zeros_like(time)
        if letter == " "
        else 0.3 * np.sin(2 * np.pi * (200 + 120 * (ord(letter) - 96)) * time)
        for letter in text
    ]
    samples = np.concatenate(parts) + 0.01 * random.standard_normal(len(parts) * len(time))
    return samples.astype(np.float32)


def write_jsonl(path: Path, entries: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path
