"""Interpolated modified Kneser-Ney once more, by dictionaries and recursion: slow, independent, plain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

Gram = tuple[str, ...]


class SlowKneserNey:
    """`log10(gram)` and `backoff(gram)` of a model of `order`, as lmplz with --discount_fallback has them."""

    def __init__(self, sentences: Sequence[Sequence[str]], order: int) -> None:
        self.order = order
        first_seen = ["<unk>", "<s>", "</s>"]
        raw: list[Counter[Gram]] = [Counter() for _ in range(order + 1)]
        for sentence in sentences:
            padded = ["<s>"] * (order - 1) + list(sentence) + ["</s>"]
            first_seen += [word for word in sentence if word not in first_seen]
            for end in range(order - 1, len(padded)):
                for length in range(1, order + 1):
                    raw[length][tuple(padded[end - length + 1 : end + 1])] += 1
        self.words = list(dict.fromkeys(first_seen))
        number = {word: index for index, word in enumerate(self.words)}
        self.counts: list[dict[Gram, int]] = [{}]
        for length in range(1, order + 1):
            proper = {gram for gram in raw[length] if "<s>" not in gram[1:]}
            if length == order:
                self.counts.append({gram: raw[length][gram] for gram in proper})
                continue
            left = Counter(gram[1:] for gram in raw[length + 1])
            self.counts.append(
                {gram: raw[length][gram] if gram[0] == "<s>" else left[gram] for gram in proper}
            )
        self.counts[1] |= {("<unk>",): 0, ("<s>",): 0}
        told = [dict(counts) for counts in self.counts]  # whose counts are counted
        last = max(raw[order], key=lambda gram: [number[word] for word in reversed(gram)])
        for length in range(1, order):
            gram = last[-length:]
            told[length][gram] = raw[length][gram]
            if gram[0] == "<s>":
                break
        self.discounts = [(0.0, 0.0, 0.0), *(discounts(counts) for counts in told[1:])]

    def off(self, length: int, count: int) -> float:
        return self.discounts[length][min(count, 3) - 1] if count else 0.0

    def following(self, history: Gram) -> Mapping[Gram, int]:
        length = len(history) + 1
        return {gram: count for gram, count in self.counts[length].items() if gram[:-1] == history}

    def weight(self, history: Gram) -> float:
        following = self.following(history)
        if not following or not sum(following.values()):
            return 1.0
        return sum(self.off(len(history) + 1, count) for count in following.values()) / sum(
            following.values()
        )

    def probability(self, gram: Gram) -> float:
        if gram == ("<s>",):
            return 1.0
        shorter = self.probability(gram[1:]) if len(gram) > 1 else 1 / (len(self.words) - 1)
        count = self.counts[len(gram)].get(gram, 0)
        total = sum(self.following(gram[:-1]).values())
        return (count - self.off(len(gram), count)) / total + self.weight(gram[:-1]) * shorter

    def log10(self, gram: Gram) -> float:
        return math.log10(self.probability(gram))

    def backoff(self, gram: Gram) -> float:
        return math.log10(self.weight(gram))


def discounts(counts: Mapping[Gram, int]) -> tuple[float, float, float]:
    one, two, three, four = (sum(count == number for count in counts.values()) for number in (1, 2, 3, 4))
    if not (one and two and three):
        return 0.5, 1.0, 1.5
    share = one / (one + 2 * two)
    found = (1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three)
    inside = all(0 <= amount <= count for count, amount in enumerate(found, 1))
    return found if inside else (0.5, 1.0, 1.5)
