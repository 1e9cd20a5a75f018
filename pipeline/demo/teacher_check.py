"""Does the demo's teacher know what it is to teach? Its preference at the homophones of the test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.demo.grammar import KINDS
from pipeline.demo.sites import Site
from pipeline.errors import PipelineError

BATCH_SENTENCES = 128

ScoreWords = Callable[[Sequence[str], Sequence[int], Sequence[tuple[str, str]]], np.ndarray]
"""(sentences, word indices, (word, partner) each) -> (N, 2) probabilities of the two at the hidden word"""


def teacher_site_accuracy(
    sites: Sequence[Site], sentences: Mapping[str, str], score: ScoreWords
) -> dict[str, float]:
    """Share of sites, by kind, where the teacher gives the hidden word more probability than its partner.

    sentences : text by utterance id     score : for instance `masked_word_scorer` of the teacher
    """
    probabilities = score(
        [sentences[site.id].lower() for site in sites],
        [site.word_index for site in sites],
        [(site.word, site.partner) for site in sites],
    )
    is_right = probabilities[:, 0] > probabilities[:, 1]
    kinds = np.array([site.kind for site in sites])
    return {kind: float(is_right[kinds == kind].mean()) for kind in KINDS if (kinds == kind).any()}


def masked_word_scorer(teacher: Path) -> ScoreWords:
    """Scores by a masked language model in a local Hugging Face folder, in float32 on the CPU.

    The scorer raises PipelineError for a sentence or spelling that is not whole words to the teacher.
    """
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(teacher, local_files_only=True)
    model: Any = AutoModelForMaskedLM.from_pretrained(teacher, local_files_only=True, dtype=torch.float32)
    model.eval()

    def piece_of(word: str) -> int:
        pieces = tokenizer.encode(word, add_special_tokens=False)
        if len(pieces) != 1 or pieces[0] == tokenizer.unk_token_id:
            raise PipelineError(f"{teacher}: {word!r} is not one piece; the demo needs a vocabulary of words")
        return int(pieces[0])

    def score(
        sentences: Sequence[str], word_indices: Sequence[int], candidates: Sequence[tuple[str, str]]
    ) -> np.ndarray:
        parts = []
        for start in range(0, len(sentences), BATCH_SENTENCES):
            batch = slice(start, start + BATCH_SENTENCES)
            words = [text.split() for text in sentences[batch]]
            encoded = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
            rows = torch.arange(len(words))
            hidden = torch.tensor(
                [encoded.word_ids(row).index(word) for row, word in enumerate(word_indices[batch])]
            )
            encoded["input_ids"][rows, hidden] = tokenizer.mask_token_id
            with torch.inference_mode():
                probabilities = model(**encoded).logits[rows, hidden].softmax(-1)
            pieces = torch.tensor([[piece_of(word) for word in pair] for pair in candidates[batch]])
            parts.append(probabilities.gather(1, pieces).numpy())
        return np.concatenate(parts)

    return score
