"""How often a homophone is written in its partner's spelling: the figure that the demo is about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from pipeline.demo.grammar import KINDS
from pipeline.errors import PipelineError
from teacher_cache.common.files import write_whole

SITES_FILE = "sites.jsonl"
BATCH_SENTENCES = 128


@dataclass(frozen=True, slots=True)
class Site:
    """A word of an utterance that sounds the same in either spelling.

    id : utterance     word_index : 0-based among the words of its text     word, partner : the right and
    the wrong spelling     cue : the word that decides     kind : "seen" or "teacher_only"
    """

    id: str
    split: str
    word_index: int
    word: str
    partner: str
    cue: str
    kind: str


@dataclass(frozen=True, slots=True)
class HomophoneScore:
    """Counts over the sites of one kind.

    wrong : the aligned word differs or is missing     partner : it is the partner
    chance : error rate of one who hears every word and always writes each pair's commoner spelling
    """

    sites: int
    wrong: int
    partner: int
    chance: float

    @property
    def error_rate(self) -> float:
        """Wrong sites over sites."""
        return self.wrong / self.sites

    @property
    def partner_rate(self) -> float:
        """Sites where the partner stands, over sites."""
        return self.partner / self.sites


ScoreWords = Callable[[Sequence[str], Sequence[int], Sequence[tuple[str, str]]], np.ndarray]
"""(sentences, word indices, (word, partner) each) -> (N, 2) probabilities of the two at the hidden word"""


def write_sites(path: Path, sites: Sequence[Site]) -> None:
    """Write one JSON line per site."""
    write_whole(path, "".join(json.dumps(asdict(site)) + "\n" for site in sites))


def read_sites(corpus: Path, split: str) -> list[Site]:
    """The sites of one split of a demo corpus. Raises PipelineError where there are none."""
    path = corpus / SITES_FILE
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; make the corpus with `bert2ctc data demo`")
    lines = path.read_text(encoding="utf-8").splitlines()
    sites = [site for site in (Site(**json.loads(line)) for line in lines) if site.split == split]
    if not sites:
        raise PipelineError(f"{path}: no site in split {split!r}")
    return sites


def homophone_report(
    sites: Sequence[Site], references: Mapping[str, str], hypotheses: Mapping[str, str]
) -> dict[str, HomophoneScore]:
    """Scores by kind, from jiwer's alignment of each site's utterance.

    references, hypotheses : text by utterance id; more utterances than sites may be given
    Raises PipelineError where a site's utterance is missing or its reference holds another word there.
    """
    missing = [site.id for site in sites if site.id not in references or site.id not in hypotheses]
    if missing:
        raise PipelineError(
            f"{len(missing)} sites were not evaluated, {missing[0]} first; evaluate the whole split"
        )
    spoken = [references[site.id].lower() for site in sites]
    for site, text in zip(sites, spoken, strict=True):
        if text.split()[site.word_index : site.word_index + 1] != [site.word]:
            raise PipelineError(
                f"{site.id}: word {site.word_index} of {text!r} is not {site.word!r}; other corpus?"
            )
    aligned = jiwer.process_words(spoken, [hypotheses[site.id].lower() for site in sites])
    written = [
        _word_at(site.word_index, chunks, hypothesis)
        for site, chunks, hypothesis in zip(sites, aligned.alignments, aligned.hypotheses, strict=True)
    ]
    report = {}
    for kind in KINDS:
        of_kind = [(site, word) for site, word in zip(sites, written, strict=True) if site.kind == kind]
        if of_kind:
            report[kind] = HomophoneScore(
                sites=len(of_kind),
                wrong=sum(word != site.word for site, word in of_kind),
                partner=sum(word == site.partner for site, word in of_kind),
                chance=_chance([site for site, _ in of_kind]),
            )
    return report


def score_run(run_dir: Path, split: str, corpus: Path) -> dict[str, dict[str, float]]:
    """Homophone figures of an evaluated run, each by kind; reads `<run>/evaluation/<split>.{ref,hyp}.trn`.

    Keys: homophone_error_rate, homophone_partner_rate, homophone_chance, homophone_sites.
    """
    texts = [_read_trn(run_dir / "evaluation" / f"{split}.{side}.trn") for side in ("ref", "hyp")]
    report = homophone_report(read_sites(corpus, split), *texts)
    return {
        "homophone_error_rate": {kind: score.error_rate for kind, score in report.items()},
        "homophone_partner_rate": {kind: score.partner_rate for kind, score in report.items()},
        "homophone_chance": {kind: score.chance for kind, score in report.items()},
        "homophone_sites": {kind: score.sites for kind, score in report.items()},
    }


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


def _word_at(index: int, chunks: Sequence[Any], hypothesis: Sequence[str]) -> str | None:
    """The hypothesis word that is aligned with reference word `index`; None where it is deleted."""
    for chunk in chunks:
        if chunk.type != "insert" and chunk.ref_start_idx <= index < chunk.ref_end_idx:
            position = chunk.hyp_start_idx + index - chunk.ref_start_idx
            return None if chunk.type == "delete" else hypothesis[position]
    return None


def _chance(sites: Sequence[Site]) -> float:
    counts = Counter((min(site.word, site.partner), site.word) for site in sites)
    commonest: dict[str, int] = {}
    for (pair, _), count in counts.items():
        commonest[pair] = max(commonest.get(pair, 0), count)
    return 1 - sum(commonest.values()) / len(sites)


def _read_trn(path: Path) -> dict[str, str]:
    """Text by utterance id; a line is `text (id)`."""
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; run `bert2ctc evaluate` on this split first")
    texts = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text, _, utterance_id = line.rpartition("(")
        texts[utterance_id.removesuffix(")")] = text.strip()
    return texts
