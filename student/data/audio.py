"""A user's own recordings as the model takes them: any format of soundfile's, any rate, any channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from student.errors import StudentError

MAX_SECONDS = 120.0  # attention's memory grows with the square, and training has about 35 s at most
Say = Callable[[str], None]
Samples = Tensor | npt.NDArray[np.floating] | npt.NDArray[np.integer]


def check_recording(path: Path) -> None:
    """Raises StudentError for a file that is absent, cannot be decoded or lasts longer than MAX_SECONDS."""
    _check_seconds(str(path), recording_seconds(path))


def recording_seconds(path: Path) -> float:
    """By its header; StudentError for a file that is absent or cannot be decoded."""
    if not path.is_file():
        raise StudentError(f"{path}: no such file; give the path of a recording")
    with decoding_faults_told(path):
        return float(soundfile.info(path).duration)


@contextmanager
def decoding_faults_told(path: Path) -> Iterator[None]:
    """StudentError that names `path` for what soundfile raises in the block."""
    try:
        yield
    except (OSError, soundfile.SoundFileError) as error:
        raise StudentError(f"{path}: cannot be decoded ({error}); convert it to FLAC or WAV") from None


def read_recording(path: Path, sample_rate_hz: int, say: Say = lambda line: None) -> Tensor:
    """Float32 (S,) at the model's rate, all channels averaged; `say` gets a line on what was converted."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return _converted(torch.from_numpy(samples), rate, sample_rate_hz, str(path), say)


def samples_at_rate(samples: Samples, rate: int, sample_rate_hz: int) -> Tensor:
    """Float32 (S,) at the model's rate of an array (S,) or (S, channels).

    Integers are scaled to -1..1 by their type's range; floats must lie there already.
    Raises StudentError for another shape, no samples, NaN, or more than MAX_SECONDS.
    """
    tensor = torch.as_tensor(samples).detach().cpu()
    if tensor.ndim not in (1, 2) or (tensor.ndim == 2 and tensor.shape[1] > tensor.shape[0] > 0):
        raise StudentError(f"samples of shape {tuple(tensor.shape)}; give (samples,) or (samples, channels)")
    if tensor.dtype.is_floating_point:
        tensor = tensor.float()
    else:
        tensor = tensor.float() / -float(torch.iinfo(tensor.dtype).min)
    _check_seconds("samples", len(tensor) / rate)
    columns = tensor if tensor.ndim == 2 else tensor.unsqueeze(1)
    return _converted(columns, rate, sample_rate_hz, "samples", lambda line: None)


def _check_seconds(name: str, seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise StudentError(
            f"{name}: {seconds:.0f} s, {MAX_SECONDS:.0f} s is the limit here; "
            "`bert2ctc transcribe RUN recording.flac` hears recordings of any length"
        )


def _converted(samples: Tensor, rate: int, sample_rate_hz: int, name: str, say: Say) -> Tensor:
    """Samples (S, channels) at `rate` to (S',) at `sample_rate_hz`."""
    waveform = samples.mean(dim=1)
    check_samples(waveform, name)
    if rate != sample_rate_hz:
        waveform = resample(waveform, rate, sample_rate_hz)
    if told := conversion(samples.shape[1], rate, sample_rate_hz):
        say(f"{name}: {told}")
    return waveform


def check_samples(waveform: Tensor, name: str) -> None:
    """Raises StudentError for no samples, NaN or infinity."""
    if not len(waveform) or not bool(waveform.isfinite().all()):
        raise StudentError(f"{name}: holds no samples, NaN or infinity; record or convert it again")


def conversion(num_channels: int, rate: int, sample_rate_hz: int) -> str:
    """What makes a recording one waveform at `sample_rate_hz`, in words; "" where nothing has to."""
    changes = [f"{num_channels} channels mixed to one"] if num_channels > 1 else []
    if rate != sample_rate_hz:
        changes.append(f"{rate} Hz resampled to {sample_rate_hz} Hz")
    return ", ".join(changes)
