"""What a corpus says it holds, as raw entries: LibriSpeech-layout folders, id lists, JSONL manifests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import SplitConfig
from pipeline.errors import PipelineError
from pipeline.files import FILES
from teacher_cache.common.small_files import is_there, parse_object, read_lines
from teacher_cache.common.typed import Fault
from teacher_cache.settings import shown_value, text_fault

# Suffixes that soundfile reads, the preferred first where an utterance lies there more than once.
AUDIO_SUFFIXES = ("flac", "wav", "opus", "ogg", "oga", "mp3", "aiff", "aif", "au", "caf", "w64", "sph")
UNREADABLE = "unreadable line"  # the reason of a bad item
MAX_ID_CHARACTERS = 240  # with a suffix it is a file's name
_NEMO_KEYS = {"audio_filepath": "audio", "duration": "seconds"}


@dataclass(frozen=True, slots=True)
class RawUtterance:
    """One utterance as the corpus states it; nothing is checked yet.

    audio : path relative to the data root, whether it exists or not     text : before normalisation
    seconds : duration as a manifest declares it, None where nothing is declared
    """

    id: str
    audio: str
    text: str
    speaker: str = ""
    chapter: str = ""
    position: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class BadItem:
    """One item that cannot be used. reason : a short kind, for counting     detail : the value and limit."""

    split: str
    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CorpusLocation:
    """Where things lie: the data root, the corpus as a folder below it, and the folder of id lists."""

    data_root: Path
    corpus: str
    config_folder: Path

    @property
    def corpus_folder(self) -> Path:
        """The folder that holds the corpus's own folders."""
        return self.data_root / self.corpus


def read_split(
    name: str, split: SplitConfig, location: CorpusLocation
) -> tuple[list[RawUtterance], list[BadItem]]:
    """The entries of one split in a fixed order, and the items that could not be read at all.

    Nothing is opened but transcripts and manifests. Raises PipelineError where a folder, list or
    manifest is absent, or where the split is empty.
    """
    if split.manifest:
        entries, bad = read_corpus_manifest(name, location.data_root / split.manifest, location.data_root)
    elif split.ids:
        entries, bad = _read_ids(name, split, location)
    else:
        entries, bad = [], []
        for folder in split.folders:
            for chapter in _chapters(_existing(location.corpus_folder / folder)):
                found, missing = _read_chapter(name, chapter, location.data_root)
                entries += found
                bad += missing
    if not entries and not bad:
        source = split.manifest or split.ids or f"{', '.join(split.folders)} below {location.corpus_folder}"
        raise PipelineError(
            f"split {name}: no utterance in {source}; expected <speaker>/<chapter>/*.trans.txt, or ids, "
            "or JSON lines"
        )
    return entries, bad


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise PipelineError(
            f"{folder}: no such folder; set BERT2CTC_DATA, or fetch it with `bert2ctc data download`"
        )
    return folder


def _chapters(folder: Path) -> Iterator[Path]:
    for speaker in sorted(folder.iterdir()):
        if speaker.is_dir():
            yield from (chapter for chapter in sorted(speaker.iterdir()) if chapter.is_dir())


def _read_chapter(split: str, chapter: Path, data_root: Path) -> tuple[list[RawUtterance], list[BadItem]]:
    """One `<speaker>/<chapter>` folder: every transcript line, and audio that no line speaks of."""
    audio = _audio_by_stem(chapter)
    speaker = chapter.parent.name
    entries: list[RawUtterance] = []
    bad: list[BadItem] = []
    for utterance_id, text in _transcripts(chapter):
        if isinstance(text, Fault):
            bad.append(BadItem(split, utterance_id, UNREADABLE, str(text)))
            continue
        if fault := _fault_of_id(utterance_id):
            bad.append(BadItem(split, utterance_id, UNREADABLE, fault))
            continue
        path = chapter / audio.get(utterance_id, f"{utterance_id}.{AUDIO_SUFFIXES[0]}")
        number = utterance_id.rpartition("-")[2]
        entries.append(
            RawUtterance(
                id=utterance_id,
                audio=path.relative_to(data_root).as_posix(),
                text=text,
                speaker=speaker,
                chapter=f"{speaker}-{chapter.name}",
                position=int(number) if number.isascii() and number.isdigit() else len(entries),
            )
        )
    unwritten = sorted(audio.keys() - {entry.id for entry in entries})
    return entries, bad + [BadItem(split, stem, "no transcript", audio[stem]) for stem in unwritten]


def _transcripts(chapter: Path) -> Iterator[tuple[str, str | Fault]]:
    """(id, raw text) of every line that is not blank; of an unreadable one (where it stands, its fault)."""
    for path in sorted(chapter.glob("*.trans.txt")):
        try:
            for number, line in read_lines(path):
                if isinstance(line, Fault):
                    yield f"{path.name}:{number}", line
                    continue
                utterance_id, _, text = line.strip().partition(" ")
                if utterance_id:
                    yield utterance_id, text.strip()
        except Fault as fault:
            yield path.name, fault


def _fault_of_id(utterance_id: str) -> str:
    """Why an id cannot be one, in words; it is a file's name."""
    if "/" in utterance_id or len(utterance_id) > MAX_ID_CHARACTERS:
        return f"an id is a file's name of at most {MAX_ID_CHARACTERS} characters"
    return text_fault(utterance_id)


def _audio_by_stem(chapter: Path) -> dict[str, str]:
    found: dict[str, tuple[int, str]] = {}
    for name in os.listdir(chapter):
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() in AUDIO_SUFFIXES:
            candidate = (AUDIO_SUFFIXES.index(suffix.lower()), name)
            found[stem] = min(candidate, found.get(stem, candidate))
    return {stem: name for stem, (_, name) in found.items()}


def _read_ids(
    name: str, split: SplitConfig, location: CorpusLocation
) -> tuple[list[RawUtterance], list[BadItem]]:
    """The listed utterances, in the list's order."""
    wanted, unreadable = _read_id_list(name, location.config_folder / split.ids)
    corpus = _existing(location.corpus_folder)
    folders = [_existing(corpus / folder) for folder in split.folders] or [
        folder for folder in sorted(corpus.iterdir()) if folder.is_dir()
    ]
    available = _find(wanted, folders, name, location.data_root)
    entries = [available[wanted_id] for wanted_id in wanted if wanted_id in available]
    missing = [BadItem(name, one, "id not found") for one in wanted if one not in available]
    return (
        entries,
        unreadable + missing,
    )  # an id listed twice is found twice: validation reports it as a duplicate


def _read_id_list(split: str, path: Path) -> tuple[list[str], list[BadItem]]:
    """The ids of a list, and its lines that cannot be one."""
    if not is_there(path):
        raise PipelineError(f"{path}: no such list of utterance ids; it is looked up beside the config file")
    ids, bad = [], []
    with FILES.faults_told(path, "a list of utterance ids, a line each"):
        for number, line in read_lines(path):
            one = "" if isinstance(line, Fault) else line.strip()
            if one.startswith("#"):
                continue
            if fault := str(line) if isinstance(line, Fault) else _fault_of_id(one):
                bad.append(BadItem(split, f"{path.name}:{number}", UNREADABLE, fault))
            elif one:
                ids.append(one)
    return ids, bad


def _find(wanted: Iterable[str], folders: list[Path], name: str, data_root: Path) -> dict[str, RawUtterance]:
    """The wanted ids by id; an id in two folders is ambiguous, which only the user can settle."""
    wanted_ids = set(wanted)
    chapters = sorted({tuple(one.split("-")[:2]) for one in wanted_ids if one.count("-") >= 2})
    found: dict[str, RawUtterance] = {}
    for speaker, chapter in chapters:
        for folder in folders:
            if not (folder / speaker / chapter).is_dir():
                continue
            for entry in _read_chapter(name, folder / speaker / chapter, data_root)[0]:
                if entry.id not in wanted_ids:
                    continue
                if entry.id in found and found[entry.id].audio != entry.audio:
                    raise PipelineError(
                        f"split {name}: {entry.id} lies in two places, {found[entry.id].audio} and "
                        f"{entry.audio}; name one with `folders` beside `ids`"
                    )
                found[entry.id] = entry
    return found


def read_corpus_manifest(
    split: str, manifest: Path, data_root: Path
) -> tuple[list[RawUtterance], list[BadItem]]:
    """The entries of a JSONL manifest in file order, and its unusable lines.

    Keys: audio, text; optional id (else the audio file's stem), speaker, seconds, chapter, position
    (else the line's index). Audio lies relative to the manifest's folder or to the data root.
    Raises PipelineError where there is no such file.
    """
    if not is_there(manifest):
        raise PipelineError(f"{manifest}: no such manifest; [data.splits] manifest lies below the data root")
    entries, bad = [], []
    with FILES.faults_told(manifest, "a manifest holds an utterance a line, as JSON"):
        for number, line in read_lines(manifest):
            try:
                if isinstance(line, Fault):
                    raise line
                if line.strip():
                    entries.append(_entry(parse_object(line), number, manifest.parent, data_root))
            except ValueError as error:
                bad.append(BadItem(split, f"{manifest.name}:{number}", UNREADABLE, str(error)))
    return entries, bad


def _entry(line: Mapping[str, Any], number: int, folder: Path, data_root: Path) -> RawUtterance:
    fields = {_NEMO_KEYS.get(key, key): value for key, value in line.items() if value is not None}
    if fields.get("offset"):
        raise ValueError("an offset into a longer recording is not supported; cut the recording")
    if missing := [key for key in ("audio", "text") if key not in fields]:
        raise ValueError(f"key {missing[0]!r} is missing")
    audio, text = fields["audio"], fields["text"]
    if not isinstance(audio, str) or not isinstance(text, str):
        raise ValueError("audio and text must be strings")
    if fault := text_fault(audio):
        raise ValueError(f"audio {fault}")
    return RawUtterance(
        id=_name(fields.get("id", Path(audio).stem), "id"),
        audio=_below_root(audio, folder, data_root),
        text=text,
        speaker=_name(fields.get("speaker", ""), "speaker"),
        chapter=_name(fields.get("chapter", ""), "chapter"),
        position=_number(fields.get("position", number - 1), int, "position"),
        seconds=None if "seconds" not in fields else _number(fields["seconds"], float, "seconds"),
    )


def _name(value: Any, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{key} {shown_value(value)} is neither a string nor an integer")
    if fault := text_fault(str(value)):
        raise ValueError(f"{key} {fault}")
    if key == "id" and value == "":
        raise ValueError("id is empty")
    return str(value)


def _number(value: Any, kind: type[int] | type[float], key: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not abs(value) < 2**63:
        raise ValueError(f"{key} {shown_value(value)} is not {'an integer' if kind is int else 'a number'}")
    return kind(value)


def _below_root(audio: str, folder: Path, data_root: Path) -> str:
    """`audio` relative to the data root: beside the manifest if it exists there, else below the root."""
    beside = folder / audio
    path = os.path.normpath(beside if os.path.isfile(beside) else data_root / audio)
    relative = os.path.relpath(path, os.path.normpath(data_root))
    if relative.split(os.sep)[0] == os.pardir:
        raise ValueError(f"audio {shown_value(audio)} lies outside the data root; link or copy it there")
    return Path(relative).as_posix()
