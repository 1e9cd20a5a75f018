"""What is brought along to a machine without a network: unpacked, and its speech made ready to read."""

from __future__ import annotations

import io
import json
import multiprocessing
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from on_a_gpu_parts import DATA, RECEIVED, WORK, say


def receive(folder: Path) -> None:
    """Unpack every archive of the folder below WORK; speech becomes 16-bit WAV, which is read in no time."""
    started, seconds = time.monotonic(), 0.0
    for path in sorted(folder.glob("*.tar*")):
        with tarfile.open(path) as archive:
            if path.name.startswith("speech"):
                seconds += _receive_speech(archive)
            else:
                archive.extractall(WORK, filter="data")
        say(f"{path.name} received")
    known = json.loads(RECEIVED.read_text()) if RECEIVED.is_file() else {}
    known[folder.name] = {"seconds": round(time.monotonic() - started, 1), "speech_seconds": seconds}
    RECEIVED.write_text(json.dumps(known, indent=1))


def _receive_speech(archive: tarfile.TarFile) -> float:
    with multiprocessing.Pool() as pool:
        return sum(pool.imap_unordered(_store, _files_of(archive), chunksize=8))


def _files_of(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        stream = archive.extractfile(member)
        if stream is not None:
            yield member.name, stream.read()


def _store(item: tuple[str, bytes]) -> float:
    """Write one file below the data root; the seconds of audio in it.

    Samples are rounded as the trainer rounds what it decodes: training hears the same from either file.
    """
    path, data = DATA / item[0], item[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix not in (".opus", ".mp3"):
        path.write_bytes(data)
        return 0.0
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    rounded = np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16)
    soundfile.write(path.with_suffix(".wav"), rounded, rate, subtype="PCM_16")
    return len(samples) / float(rate)
