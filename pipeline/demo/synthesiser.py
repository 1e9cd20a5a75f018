"""Speech from the eSpeak NG library (GPL-3, the extra `[demo]`): equal requests give equal bytes."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    import torch

NATIVE_RATE_HZ = 22_050
SAMPLE_RATE_HZ = 16_000
MAX_DATA_PATH_BYTES = 159  # eSpeak NG 1.52 keeps the path in a buffer of 160

# speak_lib.h
_RETRIEVAL_MODE, _DO_NOT_EXIT = 2, 0x8000  # AUDIO_OUTPUT_SYNCHRONOUS, espeakINITIALIZE_DONT_EXIT
_RATE, _VOLUME, _PITCH = 1, 2, 3
_QUIET = 50  # at the library's 100 some voices clip
_UTF8 = 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

_PROBE = "the quick brown fox"


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker.

    accent : a voice of the library (`en`, `en-us`, ...)     variant : a file of its `voices/!v` folder
    words_per_minute : 80..450     pitch : 0..99
    """

    accent: str
    variant: str
    words_per_minute: int = 175
    pitch: int = 50


class Synthesiser:
    """Speaks sentences as int16 samples at 22,050 Hz.

    The library's global state (flutter, noise, echo) runs on from one utterance into the next, and nothing
    resets it. So the library is loaded afresh for every utterance, 5 ms each, and it is checked here that
    this makes speech repeatable.
    One thread of a process at a time may speak.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise PipelineError("espeakng-loader is not installed; pip install 'bert2ctc[demo]'") from None
        self._library_path: str = espeakng_loader.get_library_path()
        self._data_path = Path(espeakng_loader.get_data_path())
        self._variants = {entry.name for entry in (self._data_path / "voices" / "!v").iterdir()}
        self.version = ""
        voice = Voice("en-us", "m3")
        if not np.array_equal(self.speak(_PROBE, voice), self.speak(_PROBE, voice)):
            raise PipelineError(
                f"{self._library_path}: stays loaded between utterances, so speech is not repeatable; "
                "unload whatever else in this process uses eSpeak NG"
            )

    def speak(self, text: str, voice: Voice) -> np.ndarray:
        """The samples of one sentence: int16 (S,) at 22,050 Hz.

        Raises PipelineError where the voice does not load or nothing is spoken.
        """
        if voice.variant not in self._variants:  # the library would speak without it and say nothing
            raise PipelineError(f"variant {voice.variant!r} is not in {self._data_path / 'voices' / '!v'}")
        parts: list[bytes] = []

        def keep(samples: Any, num_samples: int, _events: Any) -> int:
            if samples and num_samples > 0:
                parts.append(ctypes.string_at(samples, 2 * num_samples))
            return 0

        callback = _Callback(keep)
        with self._fresh_library() as library:
            library.espeak_SetSynthCallback(callback)
            _set_voice(library, voice)
            encoded = text.encode()
            status = library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None)
            if status == 0:
                status = library.espeak_Synchronize()
        samples = np.frombuffer(b"".join(parts), dtype=np.int16)
        if status != 0 or not samples.any():
            raise PipelineError(f"eSpeak NG spoke nothing for {text!r} as {voice}: status {status}")
        return samples

    @contextmanager
    def _fresh_library(self) -> Iterator[ctypes.CDLL]:
        library = ctypes.CDLL(self._library_path)
        try:
            with _short_path(self._data_path) as path:
                if library.espeak_Initialize(_RETRIEVAL_MODE, 0, path, _DO_NOT_EXIT) != NATIVE_RATE_HZ:
                    raise PipelineError(
                        f"{self._data_path}: eSpeak NG cannot read its data; reinstall espeakng-loader"
                    )
                try:
                    library.espeak_Info.restype = ctypes.c_char_p
                    self.version = library.espeak_Info(None).decode()
                    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # it would be the time of day
                    yield library
                finally:
                    library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)


def resample(samples: np.ndarray) -> np.ndarray:
    """int16 (S,) at 22,050 Hz as int16 at 16,000 Hz, band-limited, clipped at full scale."""
    import torch

    wave = torch.from_numpy(samples.astype(np.float64))
    limits = torch.iinfo(torch.int16)
    resampled = _band_limiter()(wave).round().clamp(limits.min, limits.max)
    return np.asarray(resampled.to(torch.int16))


@cache
def _band_limiter() -> Callable[[torch.Tensor], torch.Tensor]:
    import torch
    from torchaudio.transforms import Resample

    # float64: rounding to int16 then hides in which order threads add.
    limiter: Callable[[torch.Tensor], torch.Tensor] = Resample(
        NATIVE_RATE_HZ, SAMPLE_RATE_HZ, lowpass_filter_width=16, dtype=torch.float64
    )
    return limiter


def _set_voice(library: ctypes.CDLL, voice: Voice) -> None:
    name = f"{voice.accent}+{voice.variant}"
    if library.espeak_SetVoiceByName(name.encode()) != 0:
        raise PipelineError(f"voice {voice.accent!r} does not load; choose one of the library's own")
    settings = {_RATE: voice.words_per_minute, _VOLUME: _QUIET, _PITCH: voice.pitch}
    for parameter, value in settings.items():
        if library.espeak_SetParameter(parameter, value, 0) != 0:
            raise PipelineError(f"eSpeak NG refuses the rate or pitch of {voice}")


@contextmanager
def _short_path(data_path: Path) -> Iterator[bytes]:
    """The path itself, or a short link to it where the library's buffer would cut it."""
    path = os.fsencode(data_path)
    if len(path) <= MAX_DATA_PATH_BYTES:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        link = Path(folder) / data_path.name
        link.symlink_to(data_path, target_is_directory=True)
        yield os.fsencode(link)
