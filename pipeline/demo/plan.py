"""The demo corpus on paper: who says which sentence in which split, and what the teacher reads instead."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.demo.grammar import KINDS, REACHES, SEEN, Content, Pairing, Sentence, draw_sentence, pairings
from pipeline.demo.synthesiser import Voice
from pipeline.errors import PipelineError
from teacher_cache.settings import check_settings, setting

SPLITS = ("train", "dev", "test")
ACCENTS = "en-us en-gb-x-rp".split()
VARIANTS = ("m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 adam belinda david edward linda max steph").split()
WORDS_PER_MINUTE = (200, 250)
PITCH = (30, 70)
MAX_DRAWS = 1000  # for one sentence that is not used yet


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCorpusConfig:
    """All that decides the corpus; it is made on the spot."""

    seed: int = setting(
        1, "of sentences, voices and the pairs that only the teacher reads", low=0, high=2**63 - 1
    )
    train_utterances: int = setting(
        3600, "a multiple of 36 gives every pairing its exact share", low=1, high=10**7
    )
    dev_utterances: int = setting(288, "a multiple of 96", low=1, high=10**7)
    test_utterances: int = setting(
        1248, "a multiple of 96; every pairing equally often, near and far", low=1, high=10**7
    )
    teacher_sentences: int = setting(30_000, "that the teacher reads", low=1, high=10**7)
    site_fraction: float = setting(
        0.55, "how often a cue stands with its homophone, where it may; else with a filler", above=0, below=1
    )
    other_pair_fraction: float = setting(
        0.2,
        "how often every cue alike stands with a homophone of another pair, in either spelling; never scored",
        low=0,
        below=1,
    )
    utterances_per_speaker: int = setting(
        150, "a speaker is one voice, variant, rate and pitch, and speaks in one split", low=1, high=10**7
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.site_fraction + self.other_pair_fraction > 1:
            raise ValueError("site_fraction and other_pair_fraction together exceed 1; lower one of them")
        speakers, most = sum(map(self.speakers_of, SPLITS)), len(ACCENTS) * len(VARIANTS)
        if speakers > most:
            raise ValueError(f"{speakers} speakers exceed {most} voices; raise utterances_per_speaker")

    def utterances_of(self, split: str) -> int:
        """How many utterances of the split are planned."""
        planned: int = getattr(self, f"{split}_utterances")
        return planned

    def speakers_of(self, split: str) -> int:
        """How many speakers share the split."""
        return -(-self.utterances_of(split) // self.utterances_per_speaker)


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice and all that it says, in order."""

    number: int
    split: str
    voice: Voice
    sentences: tuple[Sentence, ...]

    @property
    def chapter(self) -> int:
        """The one chapter of the speaker; chapter numbers, like LibriSpeech's, are unique in the corpus."""
        return 10 * self.number

    def utterance_id(self, position: int) -> str:
        """The id of the sentence at `position`, in LibriSpeech's form."""
        return f"{self.number}-{self.chapter}-{position:04d}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is spoken, and what only the teacher reads."""

    speakers: tuple[Speaker, ...]
    teacher_sentences: tuple[Sentence, ...]


def plan_corpus(config: DemoCorpusConfig) -> Plan:
    """The whole corpus; the same for the same config.

    No sentence occurs twice over all splits and the teacher's text together, and no voice with its variant
    in two splits. Training speech and the teacher's text follow one grammar with one share of homophones of
    other pairs after every cue; they differ in this alone: where a teacher-only cue would meet its own
    homophone in speech, a filler stands.
    Raises PipelineError where the grammar has too few sentences for the config.
    """
    known = pairings(config.seed)
    draw = _Drawer(config.seed)
    sentences = {split: _sites(known, config.utterances_of(split), draw) for split in ("test", "dev")}
    spoken = _mixture(known, config.train_utterances, config, draw)
    sentences["train"] = [draw(pairing, _heard(pairing, content)) for pairing, content in spoken]
    read = _mixture(known, config.teacher_sentences, config, draw)
    teacher = tuple(draw(pairing, content) for pairing, content in read)
    voices = _voices(config.seed)
    speakers = []
    for number, split in enumerate(SPLITS, start=1):
        draw.chooser.shuffle(sentences[split])
        count = config.speakers_of(split)
        for index in range(count):
            share = tuple(sentences[split][index::count])
            speakers.append(Speaker(1000 * number + index, split, next(voices), share))
    return Plan(tuple(speakers), teacher)


class _Drawer:
    """Draws sentences that were not drawn before."""

    def __init__(self, seed: int) -> None:
        self.chooser = random.Random(f"sentences {seed}")
        self._used: set[str] = set()

    def __call__(self, pairing: Pairing, content: Content, reach: str | None = None) -> Sentence:
        for _ in range(MAX_DRAWS):
            sentence = draw_sentence(self.chooser, pairing, content, reach)
            if sentence.text not in self._used:
                self._used.add(sentence.text)
                return sentence
        raise PipelineError(
            f"no new sentence with {pairing.cue!r} in {MAX_DRAWS} draws; ask for fewer teacher_sentences"
        )


def _heard(pairing: Pairing, content: Content) -> Content:
    """Speech never joins a teacher-only cue with its homophone."""
    return Content.FILLER if content is Content.SITE and pairing.kind != SEEN else content


def _sites(known: list[Pairing], count: int, draw: _Drawer) -> list[Sentence]:
    """Sentences with a homophone each: kinds, reaches and the pairings of a kind equally often."""
    sentences = []
    for number, kind in enumerate(KINDS):
        of_kind = [(pairing, reach) for pairing in known if pairing.kind == kind for reach in REACHES]
        draw.chooser.shuffle(of_kind)
        wanted = (count + 1 - number) // 2
        turns = (of_kind[index % len(of_kind)] for index in range(wanted))
        sentences += [draw(pairing, Content.SITE, reach) for pairing, reach in turns]
    return sentences


def _mixture(
    known: list[Pairing], count: int, config: DemoCorpusConfig, draw: _Drawer
) -> list[tuple[Pairing, Content]]:
    """Every pairing equally often, each with its share of every content, in random order."""
    turns = []
    for index, pairing in enumerate(known):
        number = len(range(index, count, len(known)))
        sites = int(number * config.site_fraction + 0.5)
        others = min(int(number * config.other_pair_fraction + 0.5), number - sites)
        contents = [Content.SITE] * sites + [Content.OTHER_PAIR] * others
        contents += [Content.FILLER] * (number - len(contents))
        turns += [(pairing, content) for content in contents]
    draw.chooser.shuffle(turns)
    return turns


def _voices(seed: int) -> Iterator[Voice]:
    """Voices in random order, each accent with each variant once, rate and pitch drawn for each."""
    chooser = random.Random(f"voices {seed}")
    combinations = [(accent, variant) for accent in ACCENTS for variant in VARIANTS]
    chooser.shuffle(combinations)
    for accent, variant in combinations:
        yield Voice(accent, variant, chooser.randint(*WORDS_PER_MINUTE), chooser.randint(*PITCH))
