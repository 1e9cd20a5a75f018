"""What a codec costs a student: the same utterances as they are, without their high frequencies, and as MP3.

    python benchmarks/codec_cost.py RUN --manifest runs/prepared/NAME/heldout.jsonl

Where a split was coded otherwise than the training speech was, its error rate is of two things: of other
speakers and of the codec. Here the speakers stay and the codec changes. MP3 is of variable rate, by LAME, of
the low-passed signal: what lies above the pass is gone before, so that its own filter removes no more.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from options import FILE_OR_FOLDER, json_option, write_figures
from rich.console import Console
from rich.table import Table

from pipeline.paths import roots_from
from student.data.dataset import read_audio
from student.data.manifest import read_manifest
from student.inference.recogniser import load_recogniser
from student.metrics import count_errors

Signal = NDArray[np.float64]
FORMS = ("as it is", "low-passed", "MP3")


def low_passed(signal: Signal, rate_hz: int, highest_hz: float) -> Signal:
    """A signal (S,) without what lies above `highest_hz`, a wall in the spectrum of the whole."""
    spectrum = np.fft.rfft(signal)
    spectrum[np.fft.rfftfreq(len(signal), 1 / rate_hz) > highest_hz] = 0
    return np.fft.irfft(spectrum, len(signal))


def through_mp3(signal: Signal, rate_hz: int, compression: float) -> tuple[Signal, int]:
    """A signal (S,) coded and decoded, and the bytes that it took; compression : 0, best, to below 1."""
    coded = io.BytesIO()
    soundfile.write(
        coded, signal, rate_hz, format="MP3", subtype="MPEG_LAYER_III",
        compression_level=compression, bitrate_mode="VARIABLE",
    )  # fmt: skip
    size = coded.tell()
    coded.seek(0)
    decoded, _ = soundfile.read(coded)
    return decoded, size


@click.command()
@click.argument("run", type=FILE_OR_FOLDER)
@click.option("--manifest", type=FILE_OR_FOLDER, required=True, help="of the split, as prepared")
@click.option("--highest-hz", default=5750.0, show_default=True, help="where the pass ends")
@click.option("--compression", default=0.9, show_default=True, help="of LAME, 0 to below 1")
@json_option
def main(run: Path, manifest: Path, highest_hz: float, compression: float, json_file: Path | None) -> None:
    """Error rates of RUN on the split in three forms."""
    recogniser, roots = load_recogniser(run), roots_from({})
    rate_hz = recogniser.config.features.sample_rate_hz
    utterances = read_manifest(manifest)
    texts: dict[str, list[str]] = {form: [] for form in FORMS}
    coded_bytes = 0
    for utterance in utterances:
        signal = read_audio(roots.data / utterance.audio, rate_hz) / 32768.0
        passed = low_passed(signal, rate_hz, highest_hz)
        coded, size = through_mp3(passed, rate_hz, compression)
        coded_bytes += size
        for form, heard in zip(FORMS, (signal, passed, coded), strict=True):
            texts[form].append(recogniser.text_of(torch.from_numpy(heard).float().clamp(-1, 1)))
    seconds = sum(utterance.seconds for utterance in utterances)
    references = [utterance.text for utterance in utterances]
    figures: dict[str, Any] = {
        "forms": {form: asdict(count_errors(references, heard)) for form, heard in texts.items()},
        "utterances": len(utterances),
        "hours": seconds / 3600,
        "highest_hz": highest_hz,
        "compression": compression,
        "kilobits_per_second": coded_bytes * 8 / seconds / 1000,
        "student": recogniser.description,
    }
    table = Table("", "WER %", "CER %")
    for form, rates in figures["forms"].items():
        table.add_row(form, f"{100 * rates['wer']:.2f}", f"{100 * rates['cer']:.2f}")
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{len(utterances):,} utterances, {figures['hours']:.2f} hours; pass up to {highest_hz:g} Hz, "
        f"MP3 of {figures['kilobits_per_second']:.1f} kbit/s"
    )
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
