from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.grammar import HOMOPHONE_PAIRS, with_spelling
from pipeline.demo.plan import ACCENTS, VARIANTS
from pipeline.demo.synthesiser import (
    MAX_DATA_PATH_BYTES,
    NATIVE_RATE_HZ,
    SAMPLE_RATE_HZ,
    Synthesiser,
    Voice,
    resample,
)
from pipeline.errors import PipelineError

TEXT = "anna wrote night again for the moon"


@pytest.fixture(scope="module")
def synthesiser() -> Synthesiser:
    return Synthesiser()


def sounds_alike(synthesiser: Synthesiser, text: str, other: str, voice: Voice) -> bool:
    return np.array_equal(synthesiser.speak(text, voice), synthesiser.speak(other, voice))


@pytest.mark.parametrize("variant", ["m3", "f2", "Alex", "Andy"])
def test_what_was_said_before_changes_no_sample(synthesiser: Synthesiser, variant: str) -> None:
    voice = Voice("en-gb-scotland", variant, 180, 40)
    alone = synthesiser.speak(TEXT, voice)
    synthesiser.speak("something else", Voice("en-us", "f5", 200, 70))
    assert np.array_equal(synthesiser.speak(TEXT, voice), alone)


def test_another_process_speaks_the_same_samples(synthesiser: Synthesiser) -> None:
    code = (
        "import zlib; from pipeline.demo.synthesiser import Synthesiser, Voice; "
        f"print(zlib.crc32(Synthesiser().speak({TEXT!r}, Voice('en-029', 'f3', 170, 60)).tobytes()))"
    )
    printed = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(printed) == 1


def test_voice_rate_and_pitch_each_change_the_speech(synthesiser: Synthesiser) -> None:
    voices = [
        Voice("en", "m3", 175, 50),
        Voice("en-us", "m3", 175, 50),
        Voice("en", "f2", 175, 50),
        Voice("en", "m3", 205, 50),
        Voice("en", "m3", 175, 60),
    ]
    assert len({synthesiser.speak(TEXT, voice).tobytes() for voice in voices}) == len(voices)


@pytest.mark.parametrize(
    ("voice", "named"),
    [
        (Voice("en-gb", "m1"), "en-gb"),
        (Voice("en-mars", "m1"), "en-mars"),
        (Voice("en", "m99"), "m99"),  # the library itself would speak on without the variant
        (Voice("en", "M1"), "M1"),
    ],
)
def test_a_voice_that_does_not_load_is_an_error(synthesiser: Synthesiser, voice: Voice, named: str) -> None:
    with pytest.raises(PipelineError, match=named):
        synthesiser.speak(TEXT, voice)


def test_text_without_sound_is_an_error(synthesiser: Synthesiser) -> None:
    with pytest.raises(PipelineError, match="spoke nothing"):
        synthesiser.speak("", Voice("en", "m1"))


def test_every_voice_of_the_corpus_speaks_in_its_own_way_without_clipping(synthesiser: Synthesiser) -> None:
    voices = [Voice(accent, VARIANTS[0]) for accent in ACCENTS]
    voices += [Voice(ACCENTS[0], variant) for variant in VARIANTS[1:]]
    spoken = [resample(synthesiser.speak("flower", voice)) for voice in voices]
    assert len({samples.tobytes() for samples in spoken}) == len(voices)
    peaks = [int(np.abs(samples.astype(np.int32)).max()) for samples in spoken]
    assert min(peaks) > 1000 and max(peaks) < 32_767


@pytest.mark.parametrize("accent", ACCENTS)
def test_every_pair_of_the_grammar_sounds_alike_in_every_accent(
    synthesiser: Synthesiser, accent: str
) -> None:
    voice = Voice(accent, "m3")
    for word, partner in HOMOPHONE_PAIRS:
        assert sounds_alike(synthesiser, f"anna wrote {word} again", f"anna wrote {partner} again", voice)


@pytest.mark.parametrize("pair", ["two to", "four for", "hour our", "witch which", "made maid"])
def test_words_that_merely_rhyme_in_a_dictionary_are_told_apart(synthesiser: Synthesiser, pair: str) -> None:
    word, partner = pair.split()
    text = f"anna wrote {word} again"
    assert not sounds_alike(synthesiser, text, with_spelling(text, 2, partner), Voice("en-us", "m3"))


def test_a_pair_may_sound_alike_in_one_accent_only(synthesiser: Synthesiser) -> None:
    texts = "anna wrote wine again", "anna wrote whine again"
    assert sounds_alike(synthesiser, *texts, Voice("en-us", "m3"))
    assert not sounds_alike(synthesiser, *texts, Voice("en-gb-scotland", "m3"))


def test_data_in_a_path_too_long_for_the_library_are_found(synthesiser: Synthesiser, tmp_path: Path) -> None:
    expected = synthesiser.speak(TEXT, Voice("en", "m1"))
    deep = Synthesiser()
    folder = tmp_path / ("x" * 120) / ("y" * 120)
    folder.mkdir(parents=True)
    (folder / "espeak-ng-data").symlink_to(deep._data_path)
    deep._data_path = folder / "espeak-ng-data"
    assert len(str(deep._data_path)) > MAX_DATA_PATH_BYTES
    assert np.array_equal(deep.speak(TEXT, Voice("en", "m1")), expected)


def test_data_that_are_no_data_are_an_error(tmp_path: Path) -> None:
    empty = Synthesiser()
    empty._data_path = tmp_path
    with pytest.raises(PipelineError, match="cannot read its data"):
        empty.speak(TEXT, Voice("en", "m1"))


def test_a_tone_keeps_its_pitch_and_its_level_when_resampled() -> None:
    time = np.arange(NATIVE_RATE_HZ) / NATIVE_RATE_HZ
    resampled = resample((10_000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16))
    expected = 10_000 * np.sin(2 * np.pi * 1000 * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ)
    assert resampled.dtype == np.int16 and len(resampled) == SAMPLE_RATE_HZ
    inner = slice(200, -200)  # the ends see the silence around the tone
    assert np.abs(resampled[inner] - expected[inner]).max() < 30


def test_what_16_khz_cannot_hold_is_filtered_not_folded() -> None:
    time = np.arange(NATIVE_RATE_HZ) / NATIVE_RATE_HZ
    resampled = resample((10_000 * np.sin(2 * np.pi * 9500 * time)).astype(np.int16))
    assert np.abs(resampled[200:-200].astype(np.int32)).max() < 100
