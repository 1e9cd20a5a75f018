"""A user's own recordings: files as they are given, and all that lie below folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError

# What soundfile decodes, and what it does not: the latter is told in a line instead of passed over
DECODED = frozenset(".aif .aifc .aiff .au .caf .flac .mp3 .oga .ogg .opus .rf64 .sph .w64 .wav".split())
UNDECODED = frozenset(".aac .amr .m4a .mka .mp4 .webm .wma".split())


@dataclass(frozen=True, slots=True)
class Recording:
    """A file, and what its transcript is called: its path below the folder that was given, without ending."""

    path: Path
    name: Path


def recordings_of(given: Sequence[Path]) -> list[Recording]:
    """The recordings of files and folders in the order given, those of a folder by path; each file once.

    A path that is no folder counts as a file, whatever is there.
    Raises PipelineError for a folder without recordings.
    """
    found: dict[Path, Recording] = {}
    for path in given:
        for recording in _below(path) if path.is_dir() else [Recording(path, Path(path.stem))]:
            found.setdefault(recording.path, recording)
    return list(found.values())


def _below(folder: Path) -> Iterator[Recording]:
    own = [path for path in folder.rglob("*") if path.suffix.lower() in DECODED | UNDECODED]
    own = sorted(path for path in own if path.is_file())
    if not own:
        raise PipelineError(
            f"{folder}: no recordings below it; give files, or a folder of {', '.join(sorted(DECODED))}"
        )
    for path in own:
        yield Recording(path, path.relative_to(folder).with_suffix(""))
