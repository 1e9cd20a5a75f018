from __future__ import annotations

import random
from collections import Counter

import pytest

from pipeline.demo.grammar import (
    CHOICES,
    CUES,
    FILLERS,
    FRAMES,
    HOMOPHONE_PAIRS,
    SEEN,
    TEACHER_ONLY,
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


def test_every_word_has_one_role() -> None:
    homophones = [word for pair in HOMOPHONE_PAIRS for word in pair]
    cues = [cue for of_word in CUES.values() for cue in of_word.split()]
    frame_words = {word for frame in FRAMES for word in frame.split()} - CHOICES.keys() - {"CUE", "SLOT"}
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


def test_a_sentence_holds_its_cue_and_only_its_slot_depends_on_it() -> None:
    for pairing in pairings(1):
        sentences = [draw_sentence(random.Random(7), pairing, is_site) for is_site in (True, False)]
        for sentence in sentences:
            words = sentence.text.split()
            assert len(words) == 6 and words.count(pairing.cue) == 1
            assert abs(words.index(pairing.cue) - sentence.word_index) >= 2
        site, neutral = sentences
        assert site.text.split()[site.word_index] == pairing.word
        assert neutral.text.split()[neutral.word_index] in FILLERS
        assert with_spelling(neutral.text, neutral.word_index, pairing.word) == site.text


def test_the_cue_stands_on_either_side_equally_often() -> None:
    assert (
        sum(frame.split().index("CUE") < frame.split().index("SLOT") for frame in FRAMES) == len(FRAMES) / 2
    )


def test_no_sentence_occurs_twice_anywhere(plan: Plan) -> None:
    texts = [sentence.text for split in SPLITS for sentence in spoken(plan, split)]
    texts += [sentence.text for sentence in plan.teacher_sentences]
    assert len(texts) == len(set(texts))


def test_speakers_and_their_voices_stay_in_one_split(plan: Plan) -> None:
    voices = [(speaker.voice.accent, speaker.voice.variant) for speaker in plan.speakers]
    assert len(voices) == len(set(voices))
    ids = [
        speaker.utterance_id(place) for speaker in plan.speakers for place in range(len(speaker.sentences))
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
    for kind in (SEEN, TEACHER_ONLY):
        of_kind = [sentence for sentence in plan.teacher_sentences if sentence.pairing.kind == kind]
        share = sum(sentence.is_site for sentence in of_kind) / len(of_kind)
        assert share == pytest.approx(CONFIG.site_fraction, abs=0.01)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_split_that_is_scored_holds_sites_of_both_kinds_in_equal_number(plan: Plan, split: str) -> None:
    sentences = spoken(plan, split)
    assert all(sentence.is_site for sentence in sentences)
    kinds = Counter(sentence.pairing.kind for sentence in sentences)
    assert kinds[SEEN] == kinds[TEACHER_ONLY] == CONFIG.utterances_of(split) // 2
    if split == "test":  # 384 holds every pairing of a kind equally often, so that a guess is worth one half
        for kind in kinds:
            spellings = Counter(
                sentence.pairing.word for sentence in sentences if sentence.pairing.kind == kind
            )
            assert set(spellings.values()) == {CONFIG.test_utterances // 2 // len(CUES)}


def test_the_seed_decides_everything(plan: Plan) -> None:
    assert plan_corpus(CONFIG) == plan
    other = DemoCorpusConfig(seed=2, teacher_sentences=100)
    assert plan_corpus(other).speakers != plan.speakers


@pytest.mark.parametrize(
    "settings",
    [
        {"train_utterances": 0},
        {"site_fraction": 1.0},
        {"utterances_per_speaker": 2},  # more speakers than voices
    ],
)
def test_a_config_that_cannot_be_spoken_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        DemoCorpusConfig(**settings)


def test_more_sentences_than_the_grammar_holds_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.demo.grammar.FRAMES", ("SLOT meant the CUE",))
    with pytest.raises(PipelineError, match="fewer teacher_sentences"):
        plan_corpus(CONFIG)
