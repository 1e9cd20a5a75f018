"""The student: a Conformer with CTC, taught by attention decoders that are thrown away."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from student.inference.recogniser import Recogniser


def load_model(folder: Path | str, device: str = "auto") -> Recogniser:
    """The recogniser of a folder that `bert2ctc export` wrote: `load_model(DIR).transcribe("a.flac")`.

    device : auto, cpu, cuda or mps
    Needs torch, torchaudio, sentencepiece, soundfile and numpy, and loads them only now.
    Raises student.errors.StudentError for a folder that is no whole export.
    """
    from student.inference.recogniser import load_model as load

    return load(folder, device)
