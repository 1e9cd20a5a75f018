"""The stage `bert2ctc transcribe`: a user's own recordings to text, subtitles and words with times."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import Report, say
from pipeline.corpus.audio_check import silent_decoders
from pipeline.corpus.recordings import Recording, recordings_of
from pipeline.errors import PipelineError
from student.errors import StudentError
from teacher_cache.common.files import write_whole
from teacher_cache.common.progress import progress

if TYPE_CHECKING:
    from student.inference.transcription import Transcript


def transcribe_files(
    run_dir: Path,
    audio: Sequence[Path],
    device: str,
    form: str = "text",
    out: Path | None = None,
    force: bool = False,
) -> Report:
    """What is said in files, and in the recordings below folders, in their order.

    form : a key of `pipeline.report.subtitles.FORMATS`
    out : a folder, where each transcript becomes a file as soon as it is there, or the file of the only one,
        if it ends as the format's files do; None: all are shown
    A recording that cannot be read is told in a line when its turn comes, and counted in `unread`.
    Raises PipelineError for files that are there already, unless `force`, before anything is heard.
    """
    recordings = recordings_of(audio)
    from pipeline.report.subtitles import ENDINGS, FORMATS, ONE_A_FILE

    if out is None and form in ONE_A_FILE and len(recordings) > 1:
        raise PipelineError(
            f"{len(recordings)} recordings as {form}, which holds one a file; name a folder with --out"
        )
    targets = _targets(recordings, out, ENDINGS[form], force)
    from student.inference.recogniser import load_recogniser
    from student.inference.transcription import transcript_of

    recogniser = load_recogniser(run_dir, device)
    say(recogniser.description)
    result: dict[str, list[dict[str, str]]] = {"transcripts": [], "unread": [], "written": []}
    lines: list[str] = []
    for recording, heard in _heard(recordings, lambda *given: transcript_of(recogniser, *given)):
        name = str(recording.path)
        if isinstance(heard, StudentError):
            result["unread"].append({"audio": name, "fault": " ".join(str(heard).split())})
            continue
        result["transcripts"].append({"audio": name, "text": heard.text})
        if out is None:
            lines += [f"{name}\t{heard.text}"] if form == "text" else FORMATS[form](heard).splitlines()
        else:
            write_whole(targets[recording], FORMATS[form](heard))
            result["written"].append({"audio": name, "file": str(targets[recording])})
    return Report(result, lines if out is None else [entry["file"] for entry in result["written"]])


def unread_line(result: Any) -> str:
    """How many recordings could not be read, of how many; "" where all were."""
    unread = len(result["unread"])
    if not unread:
        return ""
    return (
        f"{unread} of {unread + len(result['transcripts'])} recordings could not be read, as told above; "
        "convert them to FLAC or WAV, and transcribe them alone"
    )


def _targets(
    recordings: Sequence[Recording], out: Path | None, ending: str, force: bool
) -> dict[Recording, Path]:
    """The file of each recording's transcript; PipelineError where two are one, or one is there."""
    if out is None:
        return {}
    if out.suffix == ending and len(recordings) == 1:
        found = dict.fromkeys(recordings, out)
    elif out.suffix == ending or out.is_file():
        raise PipelineError(f"{out} is one file for {len(recordings)} recordings; name a folder with --out")
    else:
        found = _below(recordings, out, ending)
    taken = [target for target in found.values() if target.exists()]
    if taken and not force:
        raise PipelineError(
            f"{taken[0]} exists ({len(taken)} of {len(found)} do); name another folder with --out, "
            "or replace them with --force"
        )
    return found


def _below(recordings: Sequence[Recording], out: Path, ending: str) -> dict[Recording, Path]:
    found = {
        recording: out / recording.name.with_name(recording.name.name + ending) for recording in recordings
    }
    target, count = Counter(found.values()).most_common(1)[0]
    if count > 1:
        own = shlex.join(str(recording.path) for recording in recordings if found[recording] == target)
        raise PipelineError(f"{target} would be the transcript of {own}; transcribe them one by one")
    return found


def _heard(
    recordings: Sequence[Recording], hear: Any
) -> Iterator[tuple[Recording, Transcript | StudentError]]:
    """Each recording with its transcript or what is wrong with it; a bar shows the seconds heard."""
    from student.data.audio import recording_seconds

    seconds: dict[Recording, float | StudentError] = {}
    has_mp3 = any(recording.path.suffix.lower() == ".mp3" for recording in recordings)
    with silent_decoders() if has_mp3 else nullcontext():
        for recording in recordings:
            try:
                seconds[recording] = recording_seconds(recording.path)
            except StudentError as fault:
                seconds[recording] = fault
        total = sum(one for one in seconds.values() if isinstance(one, float))
        with progress("transcribing", total=total, unit="s of speech") as advance:
            for recording, known in seconds.items():
                try:
                    if isinstance(known, StudentError):
                        raise known
                    yield recording, hear(recording.path, say, advance)
                except StudentError as fault:
                    say(" ".join(str(fault).split()))
                    yield recording, fault
