"""What a corpus says it holds, as raw entries: LibriSpeech-layout folders, id lists, JSONL manifests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import SplitConfig
from pipeline.corpus.manifest import read_corpus_manifest
from pipeline.corpus.raw_utterance import BadItem, RawUtterance
from pipeline.errors import PipelineError

__all__ = ["BadItem", "CorpusPlace", "RawUtterance", "read_split"]

# Suffixes that soundfile reads, the preferred first where an utterance lies there more than once.
AUDIO_SUFFIXES = ("flac", "wav", "opus", "ogg", "oga", "mp3", "aiff", "aif", "au", "caf", "w64", "sph")


@dataclass(frozen=True, slots=True)
class CorpusPlace:
    """Where things lie: the data root, the corpus as a folder below it, and the folder of id lists."""

    data_root: Path
    corpus: str
    config_folder: Path

    @property
    def corpus_folder(self) -> Path:
        """The folder that holds the corpus's own folders."""
        return self.data_root / self.corpus


def read_split(name: str, split: SplitConfig, place: CorpusPlace) -> tuple[list[RawUtterance], list[BadItem]]:
    """The entries of one split in a fixed order, and the items that could not be read at all.

    Nothing is opened but transcripts and manifests. Raises PipelineError where a folder, list or
    manifest is absent, or where the split is empty.
    """
    if split.manifest:
        entries, bad = read_corpus_manifest(name, place.data_root / split.manifest, place.data_root)
    elif split.ids:
        entries, bad = _read_ids(name, split, place)
    else:
        entries, bad = [], []
        for folder in split.folders:
            for chapter in _chapters(_existing(place.corpus_folder / folder)):
                found, missing = _read_chapter(name, chapter, place.data_root)
                entries += found
                bad += missing
    if not entries and not bad:
        source = split.manifest or split.ids or f"{', '.join(split.folders)} below {place.corpus_folder}"
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
    for utterance_id, text in _transcripts(chapter):
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
    untold = sorted(audio.keys() - {entry.id for entry in entries})
    return entries, [BadItem(split, stem, "no transcript", audio[stem]) for stem in untold]


def _transcripts(chapter: Path) -> Iterator[tuple[str, str]]:
    """(id, raw text) of every line that is not blank."""
    for path in sorted(chapter.glob("*.trans.txt")):
        for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            utterance_id, _, text = line.strip().partition(" ")
            if utterance_id:
                yield utterance_id, text.strip()


def _audio_by_stem(chapter: Path) -> dict[str, str]:
    found: dict[str, tuple[int, str]] = {}
    for name in os.listdir(chapter):
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() in AUDIO_SUFFIXES:
            candidate = (AUDIO_SUFFIXES.index(suffix.lower()), name)
            found[stem] = min(candidate, found.get(stem, candidate))
    return {stem: name for stem, (_, name) in found.items()}


def _read_ids(name: str, split: SplitConfig, place: CorpusPlace) -> tuple[list[RawUtterance], list[BadItem]]:
    """The listed utterances, in the list's order."""
    wanted = _read_id_list(place.config_folder / split.ids)
    corpus = _existing(place.corpus_folder)
    folders = [_existing(corpus / folder) for folder in split.folders] or [
        folder for folder in sorted(corpus.iterdir()) if folder.is_dir()
    ]
    available = _find(wanted, folders, name, place.data_root)
    entries = [available[wanted_id] for wanted_id in wanted if wanted_id in available]
    missing = [BadItem(name, one, "id not found") for one in wanted if one not in available]
    return entries, missing  # an id listed twice is found twice: validation reports it as a duplicate


def _read_id_list(path: Path) -> list[str]:
    if not path.is_file():
        raise PipelineError(f"{path}: no such list of utterance ids; it is looked up beside the config file")
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _find(wanted: Iterable[str], folders: list[Path], name: str, data_root: Path) -> dict[str, RawUtterance]:
    """The wanted ids by id; an id in two folders is ambiguous, which only the user can settle."""
    wanted_ids = set(wanted)
    places = sorted({tuple(one.split("-")[:2]) for one in wanted_ids if one.count("-") >= 2})
    found: dict[str, RawUtterance] = {}
    for speaker, chapter in places:
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
