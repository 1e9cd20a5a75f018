from __future__ import annotations

import random
from collections import Counter

import pytest

from pipeline.demo.grammar import (
    CHOICES,
    CUES,
    FAR,
    FILLERS,
    FRAMES,
    HOMOPHONE_PAIRS,
    KINDS,
    NEAR,
    REACHES,
    SEEN,
    TEACHER_ONLY,
    Content,
    Sentence,
    draw_sentence,
    pairings,
    vocabulary,
    with_spelling,
)
from pipeline.demo.plan import SPLITS, DemoCorpusConfig, Plan, plan_corpus
from pipeline.errors import PipelineError

CONFIG = DemoCorpusConfig(teacher_sentences=15_600)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_corpus(CONFIG)


def spoken(plan: Plan, split: str) -> list[Sentence]:
    return [sentence for speaker in plan.speakers if speaker.split == split for sentence in speaker.sentences]


def slot_word(sentence: Sentence) -> str:
    return sentence.text.split()[sentence.word_index]


def is_of_another_pair(sentence: Sentence) -> bool:
    return slot_word(sentence) in CUES and not sentence.is_site


def test_every_word_has_one_role() -> None:
    homophones = [word for pair in HOMOPHONE_PAIRS for word in pair]
    cues = [cue for of_word in CUES.values() for cue in of_word.split()]
    frames = [frame for reach in REACHES for frame in FRAMES[reach]]
    frame_words = {word for frame in frames for word in frame.split()} - CHOICES.keys() - {"CUE", "SLOT"}
    others = [word for choices in CHOICES.values() for word in choices]
    words = [*homophones, *cues, *FILLERS, *frame_words, *others]
    assert [word for word, count in Counter(words).items() if count > 1] == []
    assert CUES.keys() == set(homophones)
    assert {len(of_word.split()) for of_word in CUES.values()} == {3}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_third_of_the_pairings_is_for_the_teacher_alone_equally_for_every_spelling(seed: int) -> None:
    counts = Counter((pairing.word, pairing.kind) for pairing in pairings(seed))
    assert set(counts) == {(word, kind) for word in CUES for kind in (SEEN, TEACHER_ONLY)}
    assert {counts[word, SEEN] for word in CUES} == {2}
    assert {counts[word, TEACHER_ONLY] for word in CUES} == {1}
    assert pairings(seed) == pairings(seed) != pairings(seed + 1)


@pytest.mark.parametrize("reach", REACHES)
def test_a_sentence_holds_its_cue_and_only_its_slot_depends_on_it(reach: str) -> None:
    for pairing in pairings(1):
        site, other, neutral = (draw_sentence(random.Random(7), pairing, part, reach) for part in Content)
        for sentence in (site, other, neutral):
            assert sentence.text.split().count(pairing.cue) == 1 and sentence.reach == reach
        assert site.is_site and slot_word(site) == pairing.word
        assert is_of_another_pair(other) and slot_word(other) not in (pairing.word, pairing.partner)
        assert not neutral.is_site and slot_word(neutral) in FILLERS
        for sentence in (other, neutral):
            assert with_spelling(sentence.text, sentence.word_index, pairing.word) == site.text


def test_a_four_gram_reaches_near_cues_and_no_far_ones() -> None:
    def distances(reach: str) -> list[int]:
        return [abs(frame.split().index("CUE") - frame.split().index("SLOT")) for frame in FRAMES[reach]]

    assert max(distances(NEAR)) <= 3 and min(distances(FAR)) >= 6


@pytest.mark.parametrize("reach", REACHES)
def test_the_cue_stands_on_either_side_equally_often(reach: str) -> None:
    frames = FRAMES[reach]
    assert sum(frame.split().index("CUE") < frame.split().index("SLOT") for frame in frames) * 2 == len(
        frames
    )


def test_no_sentence_occurs_twice_anywhere(plan: Plan) -> None:
    texts = [sentence.text for split in SPLITS for sentence in spoken(plan, split)]
    texts += [sentence.text for sentence in plan.teacher_sentences]
    assert len(texts) == len(set(texts))


def test_speakers_and_their_voices_stay_in_one_split(plan: Plan) -> None:
    voices = [(speaker.voice.accent, speaker.voice.variant) for speaker in plan.speakers]
    assert len(voices) == len(set(voices))
    ids = [
        speaker.utterance_id(number) for speaker in plan.speakers for number in range(len(speaker.sentences))
    ]
    assert len(ids) == len(set(ids)) == sum(CONFIG.utterances_of(split) for split in SPLITS)


def test_training_speech_never_joins_a_teacher_only_cue_with_its_homophone(plan: Plan) -> None:
    joined = {
        (sentence.pairing.word, sentence.pairing.cue)
        for sentence in spoken(plan, "train")
        if sentence.pairing.word in sentence.text.split()
    }
    assert joined == {
        (pairing.word, pairing.cue) for pairing in pairings(CONFIG.seed) if pairing.kind == SEEN
    }


def test_every_word_of_the_experiment_occurs_in_training_speech(plan: Plan) -> None:
    trained = vocabulary(sentence.text for sentence in spoken(plan, "train"))
    for split in SPLITS:
        assert vocabulary(sentence.text for sentence in spoken(plan, split)) <= trained
    assert vocabulary(sentence.text for sentence in plan.teacher_sentences) == trained


def test_every_cue_is_spoken_equally_often_and_spellings_are_balanced(plan: Plan) -> None:
    train = spoken(plan, "train")
    cues = Counter(sentence.pairing.cue for sentence in train)
    assert set(cues.values()) == {CONFIG.train_utterances // len(cues)}
    spellings = Counter(sentence.pairing.word for sentence in train if sentence.is_site)
    assert set(spellings) == set(CUES) and len(set(spellings.values())) == 1


def test_the_teacher_reads_seen_and_hidden_pairings_alike(plan: Plan) -> None:
    for kind in KINDS:
        of_kind = [sentence for sentence in plan.teacher_sentences if sentence.pairing.kind == kind]
        share = sum(sentence.is_site for sentence in of_kind) / len(of_kind)
        assert share == pytest.approx(CONFIG.site_fraction, abs=0.01)


def test_after_every_cue_homophones_of_other_pairs_stand_at_one_rate_in_speech_and_text(plan: Plan) -> None:
    for sentences in (spoken(plan, "train"), list(plan.teacher_sentences)):
        others = Counter(sentence.pairing.cue for sentence in sentences if is_of_another_pair(sentence))
        assert len(others) == 36 and len(set(others.values())) == 1
        assert others.total() / len(sentences) == pytest.approx(CONFIG.other_pair_fraction, abs=0.01)


def test_no_cue_favours_a_spelling_of_another_pair(plan: Plan) -> None:
    """Of each pair about half the draws fall on either spelling, also after teacher-only cues."""
    for kind in KINDS:
        of_kind = [sentence for sentence in plan.teacher_sentences if sentence.pairing.kind == kind]
        words = Counter(slot_word(sentence) for sentence in of_kind if is_of_another_pair(sentence))
        for first, second in HOMOPHONE_PAIRS:
            both = words[first] + words[second]
            assert abs(words[first] - both / 2) < 4 * both**0.5 / 2 + 1  # four standard errors


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_split_that_is_scored_holds_sites_of_both_kinds_and_reaches_in_equal_number(
    plan: Plan, split: str
) -> None:
    sentences = spoken(plan, split)
    assert all(sentence.is_site for sentence in sentences)
    groups = Counter((sentence.pairing.kind, sentence.reach) for sentence in sentences)
    assert groups == {(kind, reach): CONFIG.utterances_of(split) // 4 for kind in KINDS for reach in REACHES}
    for kind in KINDS:  # every spelling of a kind equally often, so that a guess is worth one half
        spellings = Counter(sentence.pairing.word for sentence in sentences if sentence.pairing.kind == kind)
        assert set(spellings.values()) == {CONFIG.utterances_of(split) // 2 // len(CUES)}


def test_six_hundred_sites_a_kind_are_scored() -> None:
    assert DemoCorpusConfig().test_utterances // 2 >= 600


def test_the_seed_decides_everything(plan: Plan) -> None:
    assert plan_corpus(CONFIG) == plan
    other = DemoCorpusConfig(seed=2, teacher_sentences=100)
    assert plan_corpus(other).speakers != plan.speakers


@pytest.mark.parametrize(
    "settings",
    [
        {"train_utterances": 0},
        {"site_fraction": 1.0},
        {"site_fraction": 0.8, "other_pair_fraction": 0.3},
        {"utterances_per_speaker": 2},  # more speakers than voices
    ],
)
def test_a_config_that_cannot_be_spoken_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        DemoCorpusConfig(**settings)


def test_more_sentences_than_the_grammar_holds_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = dict.fromkeys(REACHES, ("SLOT meant the CUE",))
    monkeypatch.setattr("pipeline.demo.grammar.FRAMES", frames)
    with pytest.raises(PipelineError, match="fewer teacher_sentences"):
        plan_corpus(CONFIG)
