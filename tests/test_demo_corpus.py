from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.demo.corpus import make_corpus, speak
from pipeline.demo.grammar import HOMOPHONE_PAIRS, NEAR, SEEN, Pairing, Sentence, with_spelling
from pipeline.demo.plan import ACCENTS, SPLITS, VARIANTS, DemoCorpusConfig, Speaker
from pipeline.demo.sites import Site, read_sites
from pipeline.demo.synthesiser import SAMPLE_RATE_HZ, Synthesiser, Voice, resample
from pipeline.errors import PipelineError

CONFIG = DemoCorpusConfig(
    train_utterances=8,
    dev_utterances=2,
    test_utterances=4,
    teacher_sentences=200,
    utterances_per_speaker=4,
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def transcripts(folder: Path) -> dict[str, str]:
    lines = [line for path in folder.rglob("*.trans.txt") for line in path.read_text().splitlines()]
    return {utterance_id: text for utterance_id, _, text in (line.partition(" ") for line in lines)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(CONFIG, tmp_path_factory.mktemp("data") / "demo", workers=1).path


def test_the_layout_is_librispeechs(corpus: Path) -> None:
    for split in SPLITS:
        texts = transcripts(corpus / split)
        assert len(texts) == CONFIG.utterances_of(split)
        for utterance_id, text in texts.items():
            speaker, chapter, _ = utterance_id.split("-")
            audio = soundfile.info(corpus / split / speaker / chapter / f"{utterance_id}.flac")
            assert (audio.samplerate, audio.channels, audio.format) == (SAMPLE_RATE_HZ, 1, "FLAC")
            assert 1 < audio.duration < 6 and text == text.upper()
    assert sum(1 for _ in corpus.rglob("*.flac")) == 14


def test_the_audio_of_every_site_is_what_its_partner_would_give(corpus: Path) -> None:
    summary = json.loads((corpus / "corpus.json").read_text())
    synthesiser = Synthesiser()
    sites = [site for split in ("dev", "test") for site in read_sites(corpus, split)]
    assert len(sites) == 6
    for site in sites:
        speaker, chapter, _ = site.id.split("-")
        text = transcripts(corpus / site.split / speaker)[site.id].lower()
        assert text.split()[site.word_index] == site.word and site.cue in text.split()
        voice = Voice(**{key: value for key, value in summary["speakers"][speaker].items() if key != "split"})
        written, _ = soundfile.read(
            corpus / site.split / speaker / chapter / f"{site.id}.flac", dtype="int16"
        )
        for spelling in (site.word, site.partner):
            spoken = resample(synthesiser.speak(with_spelling(text, site.word_index, spelling), voice))
            assert np.array_equal(spoken, written)


def test_sites_are_listed_with_their_kind_and_training_speech_has_seen_ones_only(corpus: Path) -> None:
    assert Counter(site.kind for site in read_sites(corpus, "test")) == {"seen": 2, "teacher_only": 2}
    assert {site.kind for site in read_sites(corpus, "train")} == {"seen"}


def test_the_teachers_text_holds_none_of_the_spoken_sentences(corpus: Path) -> None:
    read = (corpus / "teacher.txt").read_text().splitlines()
    spoken = {text.lower() for split in SPLITS for text in transcripts(corpus / split).values()}
    assert len(read) == CONFIG.teacher_sentences and not spoken & set(read)


@pytest.mark.slow
def test_a_second_run_writes_the_same_bytes_whatever_the_processes(corpus: Path, tmp_path: Path) -> None:
    again = make_corpus(CONFIG, tmp_path / "demo", workers=2).path
    assert files_of(again) == files_of(corpus)


def test_an_equal_corpus_is_reused_and_another_refused(corpus: Path) -> None:
    before = files_of(corpus)
    made = make_corpus(CONFIG, corpus)
    assert made.is_reused and "reused" in made.describe()
    with pytest.raises(PipelineError, match=r"config\.seed: 1 -> 2"):
        make_corpus(DemoCorpusConfig(seed=2), corpus)
    assert files_of(corpus) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    with pytest.raises(PipelineError, match="in the way"):
        make_corpus(CONFIG, tmp_path / "demo")
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "mine"


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / ".demo.partial" / "train"
    left.mkdir(parents=True)
    (left / "half.flac").write_bytes(b"half")
    small = DemoCorpusConfig(train_utterances=1, dev_utterances=1, test_utterances=1, teacher_sentences=9)
    made = make_corpus(small, tmp_path / "demo", workers=1)
    assert not made.is_reused and os.listdir(tmp_path) == ["demo"]
    assert not list(made.path.rglob("half.flac"))


def test_two_processes_do_not_write_at_once(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(PipelineError, match="another process"):
            make_corpus(CONFIG, tmp_path / "demo", workers=1)
    finally:
        os.close(descriptor)


def test_a_site_that_an_ear_decides_is_dropped_and_counted(tmp_path: Path) -> None:
    def site(word: str, partner: str) -> Sentence:
        return Sentence(f"anna wrote {word} again", 2, Pairing(word, partner, "again", SEEN), True, NEAR)

    neutral = Sentence("anna wrote table again", 2, Pairing("hour", "our", "again", SEEN), False, NEAR)
    speaker = Speaker(7, "test", Voice("en-us", "m3"), (site("hour", "our"), site("sea", "see"), neutral))
    spoken = speak(speaker, tmp_path)
    assert (spoken.utterances, spoken.dropped) == (2, 1)
    assert spoken.sites == [Site("7-70-0001", "test", 2, "sea", "see", "again", SEEN, NEAR)]
    assert set(transcripts(tmp_path)) == {"7-70-0001", "7-70-0002"}
    assert len(list(tmp_path.rglob("*.flac"))) == 2


def test_every_voice_speaks_pairs_alike() -> None:
    """A site that does not sound alike is dropped; with these voices none ever is."""
    synthesiser = Synthesiser()
    voices = [Voice(accent, variant) for accent in ACCENTS for variant in VARIANTS]
    for number, voice in enumerate(voices):  # each pair by five voices
        pair = HOMOPHONE_PAIRS[number % len(HOMOPHONE_PAIRS)]
        first, second = (synthesiser.speak(f"anna wrote {word} again", voice) for word in pair)
        assert np.array_equal(first, second), (voice, pair)
