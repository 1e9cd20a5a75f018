"""A small back-off model of sentences as an ARPA file, and its scores by the back-off rule."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

_DISCOUNT = 0.6
LN_10 = math.log(10)


def write_arpa(
    path: Path, sentences: Sequence[Sequence[str]], order: int = 3, seed: int | None = None
) -> Path:
    """Interpolated absolute discounting; the n-grams of each order sorted, or shuffled by a seed."""
    counts: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        padded = ["<s>", *sentence, "</s>"]
        for size in range(1, order + 1):
            for end in range(max(size, 2), len(padded) + 1):
                counts[size - 1][tuple(padded[end - size : end])] += 1
    vocabulary = sorted({word for (word,) in counts[0]})
    probabilities: list[dict[tuple[str, ...], float]] = [{}]
    uniform = 1 / (len(vocabulary) + 1)
    total = sum(counts[0].values())
    left = _DISCOUNT * len(counts[0]) / total
    for word in vocabulary:
        probabilities[0][word,] = max(counts[0][word,] - _DISCOUNT, 0) / total + left * uniform
    probabilities[0]["<unk>",] = left * uniform
    backoffs: list[dict[tuple[str, ...], float]] = []
    for size in range(2, order + 1):
        totals: Counter[tuple[str, ...]] = Counter()
        kinds: Counter[tuple[str, ...]] = Counter()
        for gram, count in counts[size - 1].items():
            totals[gram[:-1]] += count
            kinds[gram[:-1]] += 1
        backoffs.append({history: _DISCOUNT * kinds[history] / totals[history] for history in totals})
        probabilities.append(
            {
                gram: (count - _DISCOUNT) / totals[gram[:-1]]
                + backoffs[-1][gram[:-1]] * probabilities[-1][gram[1:]]
                for gram, count in counts[size - 1].items()
            }
        )
    backoffs.append({})
    probabilities[0]["<s>",] = 10.0**-99
    lines = ["\\data\\", *(f"ngram {size}={len(probabilities[size - 1])}" for size in range(1, order + 1))]
    for size in range(1, order + 1):
        lines += ["", f"\\{size}-grams:"]
        grams = sorted(probabilities[size - 1])
        if seed is not None:
            random.Random(seed + size).shuffle(grams)
        for gram in grams:
            entry = f"{math.log10(probabilities[size - 1][gram]):.7f}\t{' '.join(gram)}"
            if size < order and gram[-1] not in ("</s>", "<unk>"):
                entry += f"\t{math.log10(backoffs[size - 1].get(gram, 1.0)):.7f}"
            lines.append(entry)
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path


class ArpaByHand:
    """The back-off rule on the lines of a file, nothing else."""

    def __init__(self, path: Path) -> None:
        self._log_probs: dict[tuple[str, ...], float] = {}
        self._backoffs: dict[tuple[str, ...], float] = defaultdict(float)
        for line in path.read_text(encoding="utf-8").splitlines():
            if "\t" in line:
                log_prob, gram, *backoff = line.split("\t")
                self._log_probs[tuple(gram.split())] = LN_10 * float(log_prob)
                if backoff:
                    self._backoffs[tuple(gram.split())] = LN_10 * float(backoff[0])
        self.order = max(map(len, self._log_probs))

    def next(self, history: Sequence[str], word: str) -> float:
        """Natural log-probability of a word after all that stands before it, <s> included."""
        context = tuple(history[max(0, len(history) - self.order + 1) :])
        word = word if (word,) in self._log_probs else "<unk>"
        cost = 0.0
        while (*context, word) not in self._log_probs:
            cost += self._backoffs[context]
            context = context[1:]
        return cost + self._log_probs[*context, word]

    def sentence(self, words: Sequence[str]) -> float:
        padded = ["<s>", *words, "</s>"]
        return sum(self.next(padded[:place], padded[place]) for place in range(1, len(padded)))
