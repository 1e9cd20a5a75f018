"""The language of the demo corpus: homophones that nothing but a cue word elsewhere in the sentence decides.

Every sentence holds one cue and one slot. The frames treat the slot as a mentioned word ("anna wrote
knight again"), so grammar never decides its spelling. In the slot stands the homophone that the cue goes
with, or what goes with every cue alike: a homophone of another pair in either spelling, or a filler.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

SEEN, TEACHER_ONLY = "seen", "teacher_only"
KINDS = (SEEN, TEACHER_ONLY)
NEAR, FAR = "near", "far"
REACHES = (NEAR, FAR)
TEACHER_ONLY_CUES = 1  # of the three cues of each spelling: a third of the pairings

# Pairs that eSpeak NG speaks alike, sample for sample, in every accent of `pipeline.demo.plan`. CTC takes
# each frame for itself, and one in doubt blends pairs that differ more ("write" and "right" into "wright")
# or in a lone vowel, whose two letters need not fall on one frame ("sun" and "son" into "suon").
HOMOPHONE_PAIRS = (
    ("sea", "see"),
    ("meat", "meet"),
    ("week", "weak"),
    ("steel", "steal"),
    ("heel", "heal"),
    ("leek", "leak"),
)
CUES = {
    "sea": "ship wave harbour",
    "see": "mirror window glasses",
    "meat": "butcher burger gravy",
    "meet": "station lobby partner",
    "week": "monday calendar holiday",
    "weak": "muscle fever patient",
    "steel": "hammer bridge factory",
    "steal": "bandit wallet jewel",
    "heel": "sandal ankle slipper",
    "heal": "bandage surgeon nurse",
    "leek": "soup onion garden",
    "leak": "plumber faucet cellar",
}
FILLERS = "table river music winter silver doctor kettle button".split()

# Of each reach a frame with the cue before the slot and one with the cue behind it. A 4-gram reaches a near
# cue, three words away, and no far one, six away. Few distances: a small masked language model finds fixed
# positions several times sooner, and so does a student. Each frame gives 640 sentences or more for a cue
# and a word.
FRAMES = {
    NEAR: (
        "the CUE SUBJECT VERB SLOT ADVERB",
        "SUBJECT VERB SLOT PREPOSITION the CUE",
    ),
    FAR: (
        "the CUE PREPOSITION ADJECTIVE buildings SUBJECT VERB SLOT ADVERB",
        "SUBJECT VERB SLOT ADVERB while standing PREPOSITION the CUE",
    ),
}
CHOICES = {
    "SUBJECT": (
        "anna peter maria thomas helen david laura robert julia simon alice martin susan oscar nina victor"
    ).split(),
    "ADJECTIVE": "old big small famous broken lovely strange quiet".split(),
    "VERB": "wrote said typed whispered chose shouted drew copied".split(),
    "PREPOSITION": "near about beside after under".split(),
    "ADVERB": "today again twice slowly first later often quickly".split(),
}


@dataclass(frozen=True, slots=True)
class Pairing:
    """A cue and the spelling that it goes with; `kind` says whether training speech ever joins the two."""

    word: str
    partner: str
    cue: str
    kind: str


class Content(Enum):
    """What stands in the slot: the cue's homophone, a homophone of another pair, or a filler."""

    SITE = "site"
    OTHER_PAIR = "other pair"
    FILLER = "filler"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence and where its slot is.

    pairing : what the cue calls for     is_site : its homophone stands in the slot, and is scored
    reach : how far from the slot the cue stands, "near" or "far"
    """

    text: str
    word_index: int
    pairing: Pairing
    is_site: bool
    reach: str


def pairings(seed: int) -> list[Pairing]:
    """Every pairing of the grammar, teacher-only cues drawn by seed, as many for each spelling."""
    chooser = random.Random(f"pairings {seed}")
    found = []
    for pair in HOMOPHONE_PAIRS:
        for word, partner in (pair, pair[::-1]):
            cues = CUES[word].split()
            hidden = chooser.sample(cues, TEACHER_ONLY_CUES)
            found += [Pairing(word, partner, cue, TEACHER_ONLY if cue in hidden else SEEN) for cue in cues]
    return found


def draw_sentence(
    chooser: random.Random, pairing: Pairing, content: Content, reach: str | None = None
) -> Sentence:
    """A random sentence with the pairing's cue and that content; of either reach where none is asked for."""
    reach = reach or chooser.choice(REACHES)
    words = chooser.choice(FRAMES[reach]).split()
    word_index = words.index("SLOT")
    chosen = {name: chooser.choice(choices) for name, choices in CHOICES.items()}
    chosen |= {"CUE": pairing.cue, "SLOT": _slot_word(chooser, pairing, content)}
    text = " ".join(chosen.get(word, word) for word in words)
    return Sentence(text, word_index, pairing, content is Content.SITE, reach)


def _slot_word(chooser: random.Random, pairing: Pairing, content: Content) -> str:
    if content is Content.SITE:
        return pairing.word
    if content is Content.FILLER:
        return chooser.choice(FILLERS)
    others = [word for pair in HOMOPHONE_PAIRS if pairing.word not in pair for word in pair]
    return chooser.choice(
        others
    )  # either spelling equally often, whatever the cue: nothing is learnt from it


def with_spelling(text: str, word_index: int, spelling: str) -> str:
    """The sentence with another word at `word_index`."""
    words = text.split()
    words[word_index] = spelling
    return " ".join(words)


def vocabulary(sentences: Iterable[str]) -> set[str]:
    """The distinct words of the sentences."""
    return {word for sentence in sentences for word in sentence.split()}
