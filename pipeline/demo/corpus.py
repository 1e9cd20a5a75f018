"""The corpus of `make demo`: a controlled experiment, spoken on the spot, in LibriSpeech's layout."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pipeline.demo.grammar import KINDS, pairings, vocabulary, with_spelling
from pipeline.demo.plan import SPLITS, DemoCorpusConfig, Plan, Speaker, plan_corpus
from pipeline.demo.sites import SITES_FILE, Site, write_sites
from pipeline.demo.synthesiser import SAMPLE_RATE_HZ, Synthesiser, resample
from pipeline.errors import PipelineError
from pipeline.files import FILES
from teacher_cache.common.differences import differences, listed, phrases
from teacher_cache.common.files import publish_folder, write_json, write_whole
from teacher_cache.common.progress import Advance, progress
from teacher_cache.common.typed import Fault, convert

CORPUS_VERSION = 4  # raised whenever the same config would give another corpus
SUMMARY_FILE, TEACHER_FILE = "corpus.json", "teacher.txt"
LICENCES = {
    "sentences": "Apache-2.0: this project's own grammar",
    "synthesiser": "GPL-3.0-or-later: eSpeak NG of the package espeakng-loader, which spoke the audio",
}


@dataclass(frozen=True, slots=True)
class MadeCorpus:
    """Where the corpus lies, whether it was there already, and what its corpus.json says."""

    path: Path
    is_reused: bool
    summary: dict[str, Any]

    def describe(self) -> str:
        """The corpus in one line."""
        parts = [
            f"{split} {self.summary['utterances'][split]:,} in {self.summary['seconds'][split] / 60:.1f} min"
            for split in SPLITS
        ]
        done = "holds this corpus already, reused" if self.is_reused else "written"
        dropped = sum(self.summary["dropped_sites"].values())
        return (
            f"{self.path}: {done}: {', '.join(parts)}; {self.summary['teacher_sentences']:,} sentences for "
            f"the teacher; {dropped} sites dropped that do not sound alike"
        )


@dataclass(frozen=True, slots=True)
class Spoken:
    """What came of one speaker; `dropped` sites do not sound alike and were not written."""

    split: str
    samples: int
    utterances: int
    dropped: int
    sites: list[Site]


def make_corpus(config: DemoCorpusConfig, folder: Path, workers: int = 0) -> MadeCorpus:
    """Write the corpus as `folder`, or find it there; equal configs give equal bytes.

    `train|dev|test/<speaker>/<chapter>/` with FLAC and trans.txt, `teacher.txt` (a sentence a line),
    `sites.jsonl` (see `sites.Site`) and `corpus.json`, in a partial folder renamed when whole.
    workers : processes; 0 for one per core, 1 for none beside this one
    Raises PipelineError where another corpus is in the way, another process is writing, or a voice fails.
    """
    recipe = {"corpus_version": CORPUS_VERSION, "config": asdict(config)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        return MadeCorpus(folder, True, _existing(folder, recipe))
    with _alone(folder.parent):
        partial = folder.with_name(f".{folder.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)  # left by a run that was killed: the lock is ours
        partial.mkdir()
        summary = recipe | _write(partial, plan_corpus(config), config.seed, workers or _num_cores())
        write_json(partial / SUMMARY_FILE, summary)
        publish_folder(partial, folder)
    return MadeCorpus(folder, False, summary)


def speak(speaker: Speaker, folder: Path) -> Spoken:
    """Write a speaker's FLAC files and transcript below `folder`, less the sites that do not sound alike."""
    chapter = folder / speaker.split / str(speaker.number) / str(speaker.chapter)
    chapter.mkdir(parents=True)
    synthesiser = _synthesiser()
    lines, sites, num_samples = [], [], 0
    for position, sentence in enumerate(speaker.sentences):
        pairing, utterance_id = sentence.pairing, speaker.utterance_id(position)
        spoken = synthesiser.speak(sentence.text, speaker.voice)
        if sentence.is_site:
            other = with_spelling(sentence.text, sentence.word_index, pairing.partner)
            if not np.array_equal(synthesiser.speak(other, speaker.voice), spoken):
                continue
            sites.append(
                Site(
                    id=utterance_id,
                    split=speaker.split,
                    word_index=sentence.word_index,
                    word=pairing.word,
                    partner=pairing.partner,
                    cue=pairing.cue,
                    kind=pairing.kind,
                    reach=sentence.reach,
                )
            )
        samples = resample(spoken)
        soundfile.write(chapter / f"{utterance_id}.flac", samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        lines.append(f"{utterance_id} {sentence.text.upper()}\n")
        num_samples += len(samples)
    transcript = chapter / f"{speaker.number}-{speaker.chapter}.trans.txt"
    write_whole(transcript, "".join(lines))
    return Spoken(speaker.split, num_samples, len(lines), len(speaker.sentences) - len(lines), sites)


def _write(partial: Path, plan: Plan, seed: int, workers: int) -> dict[str, Any]:
    """Write all but corpus.json; returns what that says beside the recipe."""
    texts = [sentence.text for sentence in plan.teacher_sentences]
    write_whole(partial / TEACHER_FILE, "".join(f"{text}\n" for text in texts))
    spoken = _speak_all(plan.speakers, partial, workers)
    sites = [site for part in spoken for site in part.sites]
    write_sites(partial / SITES_FILE, sites)
    cues: dict[str, dict[str, list[str]]] = {}
    for pairing in pairings(seed):
        cues.setdefault(pairing.word, {kind: [] for kind in KINDS})[pairing.kind].append(pairing.cue)

    def total(of: str) -> dict[str, int]:
        return {split: sum(getattr(part, of) for part in spoken if part.split == split) for split in SPLITS}

    return {
        "utterances": total("utterances"),
        "seconds": {split: round(count / SAMPLE_RATE_HZ, 3) for split, count in total("samples").items()},
        "sites": {
            split: {kind: sum(site.split == split and site.kind == kind for site in sites) for kind in KINDS}
            for split in SPLITS
        },
        "dropped_sites": total("dropped"),
        "teacher_sentences": len(texts),
        "vocabulary_words": len(vocabulary(texts)),
        "cues": cues,
        "speakers": {
            speaker.number: {"split": speaker.split, **asdict(speaker.voice)} for speaker in plan.speakers
        },
        "versions": {"espeak-ng": _synthesiser().version, "espeakng-loader": version("espeakng-loader")},
        "licences": LICENCES,
    }


def _speak_all(speakers: Sequence[Speaker], folder: Path, workers: int) -> list[Spoken]:
    """Every speaker spoken, in the order given, whatever the number of processes."""
    num_utterances = sum(len(speaker.sentences) for speaker in speakers)
    with progress("speaking", total=num_utterances, unit="utterances") as advance:
        if workers == 1:
            return [_counted(speak(speaker, folder), advance) for speaker in speakers]
        # Spawned: the library's state is global to a process, and PyTorch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(speakers)), context, _use_one_thread) as pool:
            try:
                tasks = [pool.submit(speak, speaker, folder) for speaker in speakers]
                for task in as_completed(tasks):
                    _counted(task.result(), advance)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [task.result() for task in tasks]


def _counted(spoken: Spoken, advance: Advance) -> Spoken:
    advance(spoken.utterances + spoken.dropped)
    return spoken


@cache
def _synthesiser() -> Synthesiser:
    return Synthesiser()


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _existing(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """What corpus.json says of a corpus that equals the recipe. Raises PipelineError for any other."""
    summary = FILES.json(
        folder / SUMMARY_FILE, "in the way and no demo corpus; move its folder, or set BERT2CTC_DATA"
    )
    with FILES.faults_told(
        folder / SUMMARY_FILE, "in the way and no demo corpus; move its folder, or set BERT2CTC_DATA"
    ):
        for name in ("utterances", "seconds", "dropped_sites"):
            convert(Mapping[str, float], summary.get(name), name)
        convert(int, summary.get("teacher_sentences"), "teacher_sentences")
        if absent := set(SPLITS) - summary["utterances"].keys() | set(SPLITS) - summary["seconds"].keys():
            raise Fault(f"tells nothing of {', '.join(sorted(absent))}")
    found = differences({name: summary.get(name) for name in recipe}, recipe)
    if found:
        raise PipelineError(
            f"{folder} holds another corpus ({listed(phrases(found))}); move it, or set BERT2CTC_DATA"
        )
    return summary


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system takes back from the dead, or raise PipelineError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise PipelineError(f"another process is writing a corpus in {folder}; wait for it") from None
    finally:
        os.close(descriptor)
