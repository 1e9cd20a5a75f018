"""Where in the demo corpus a homophone stands, and which spelling is right there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import FILES
from teacher_cache.common.files import write_whole
from teacher_cache.common.small_files import is_there, parse_object
from teacher_cache.common.typed import typed

SITES_FILE = "sites.jsonl"


@dataclass(frozen=True, slots=True)
class Site:
    """A word of an utterance that sounds the same in either spelling.

    id : utterance     word_index : 0-based among the words of its text     word, partner : the right and
    the wrong spelling     cue : the word that decides     kind : "seen" or "teacher_only"
    reach : "near" where a 4-gram sees cue and word together, else "far"
    """

    id: str
    split: str
    word_index: int
    word: str
    partner: str
    cue: str
    kind: str
    reach: str


def write_sites(path: Path, sites: Sequence[Site]) -> None:
    """Write one JSON line per site."""
    write_whole(path, "".join(json.dumps(asdict(site)) + "\n" for site in sites))


def read_sites(corpus: Path, split: str) -> list[Site]:
    """The sites of one split of a demo corpus. Raises PipelineError where there are none."""
    path = corpus / SITES_FILE
    if not is_there(path):
        raise PipelineError(f"{path}: no such file; make the corpus with `bert2ctc data demo`")
    with FILES.faults_told(path, "make the corpus again with `bert2ctc data demo`"):
        found = [typed(Site, parse_object(line)) for _, line in FILES.lines(path, "make the corpus again")]
    sites = [site for site in found if site.split == split]
    if not sites:
        raise PipelineError(f"{path}: no site in split {split!r}")
    return sites
