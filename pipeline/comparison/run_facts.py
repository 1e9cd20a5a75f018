"""All that is known of one run, from its folder or from the JSON that `bert2ctc runs pack` made of it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.paths import Roots
from pipeline.run_record import run_of, with_defaults
from student.data.manifest import read_manifest
from student.decoding.names import GREEDY
from student.inference.evaluation_files import evaluation_folder
from student.training.run_folder import metrics, read_result
from teacher_cache.common.small_files import is_there, parse_object
from teacher_cache.common.typed import convert, typed

PACK_FORMAT = 1
_FACTS = ("git_commit", "git_changed", "versions", "python", "platform", "cores")
_PACK_ADVICE = "pack the run again with `bert2ctc runs pack RUN FILE`"
_UTTERANCES, _SCORES = ".utterances.jsonl", ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardUtterance:
    """An utterance and what was recognised; `taps`: layer -> text by the taps."""

    id: str
    reference: str
    hypothesis: str
    speaker: str = ""
    seconds: float = 0.0
    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    taps: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One split by one decoder: `scores` as `<split>.json` has them, and each utterance."""

    scores: Mapping[str, Any]
    utterances: list[HeardUtterance]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run for comparisons and reports, JSON-ready.

    config : every table of it     cache : its fingerprint, "" without one     provenance : code and versions
    result : of the finished training, {} before     metrics : entries of metrics.jsonl
    evaluations : decoder -> split -> Evaluation; an average's decoder is "average-last-3", or
        "average-last-3/words"
    training_counts : how often a word of the evaluated references stands in the training transcripts; {}
        where they are not at hand     prepared : the folder of its manifests, as this machine has it
    """

    name: str
    config: Mapping[str, Mapping[str, Any]]
    cache: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluations: Mapping[str, Mapping[str, Evaluation]] = field(default_factory=dict)
    training_counts: Mapping[str, int] = field(default_factory=dict)
    prepared: str = ""
    format: int = PACK_FORMAT

    @property
    def seed(self) -> int:
        """Of the training."""
        seed: int = with_defaults(self.config).get("trainer", {}).get("seed", 0)
        return seed

    @property
    def initial_checkpoint(self) -> str:
        """Of the training: what its weights began from, "" where they began at random."""
        return str(self.config.get("trainer", {}).get("initial_checkpoint", ""))

    @property
    def is_of_demo(self) -> bool:
        """Whether its corpus is the demo's, which knows its homophones."""
        return bool(self.config.get("demo_corpus"))


def split_reference(reference: str, roots: Roots) -> tuple[Path, str]:
    """The folder or JSON file, and the decoder, of `RUN` or `RUN@DECODER`; greedy where none is named."""
    name, sign, decoder = reference.rpartition("@")
    for said, by in ((reference, GREEDY), (name, decoder)) if sign and name else ((reference, GREEDY),):
        for path in (Path(said), roots.runs / said):
            if path.exists():
                return path, by
    return roots.runs / (name or reference), decoder if sign else GREEDY


def read_run(path: Path, roots: Roots) -> RunFacts:
    """The facts of a run's folder or of its JSON. Raises PipelineError where neither is there."""
    if path.is_file():
        return _unpacked(path)
    record = run_of(path)
    result = read_result(path)
    evaluations = evaluations_of(path)
    return RunFacts(
        name=str(path.relative_to(roots.runs) if path.is_relative_to(roots.runs) else path),
        config=record["config"],
        cache=record.get("cache", ""),
        prepared=record["prepared"],
        provenance={name: record[name] for name in _FACTS if name in record},
        result=asdict(result) if result else {},
        metrics=metrics(path),
        evaluations=evaluations,
        training_counts=_training_counts(Path(record["prepared"]) / "train.jsonl", evaluations),
    )


def packed(facts: RunFacts) -> dict[str, Any]:
    """The facts as one JSON object, which `read_run` takes."""
    return {**asdict(facts), "prepared": ""}


def bases_of(runs: Sequence[RunFacts]) -> set[str]:
    """Names of the runs with whose weights others of them begin.

    Told by the last two parts of a folder, those of ladder and run: the runs root may be another machine's.
    """
    initial = [Path(run.initial_checkpoint) for run in runs]
    begun = {folder.parts[-2:] for path in initial for folder in (path, *path.parents)}
    return {run.name for run in runs if Path(run.name).parts[-2:] in begun}


def evaluations_of(run: Path) -> dict[str, dict[str, Evaluation]]:
    """What a run's folder holds of it, by decoder and split. Raises PipelineError for a damaged file."""
    root = evaluation_folder(run)
    found: dict[str, dict[str, Evaluation]] = {}
    for path in sorted(root.rglob(f"*{_UTTERANCES}")):
        decoder = path.parent.relative_to(root).as_posix()
        split = path.name.removesuffix(_UTTERANCES)
        advice = f"evaluate the run again with `bert2ctc evaluate {shlex.quote(str(run))}`"
        with FILES.faults_told(path, advice):
            entries = [typed(HeardUtterance, parse_object(line)) for _, line in FILES.lines(path, advice)]
        scores = FILES.json(path.with_name(f"{split}{_SCORES}"), advice)
        found.setdefault(GREEDY if decoder == "." else decoder, {})[split] = Evaluation(scores, entries)
    return found


def _training_counts(manifest: Path, evaluations: Mapping[str, Mapping[str, Evaluation]]) -> dict[str, int]:
    if not is_there(manifest) or not evaluations:
        return {}
    spoken = Counter(word for utterance in read_manifest(manifest) for word in utterance.text.split())
    asked = {
        word
        for splits in evaluations.values()
        for evaluation in splits.values()
        for utterance in evaluation.utterances
        for word in utterance.reference.split()
    }
    return {word: spoken[word] for word in sorted(asked)}


def _unpacked(path: Path) -> RunFacts:
    found = FILES.json(path, _PACK_ADVICE)
    with FILES.faults_told(path, _PACK_ADVICE):
        if "hypotheses" in found:
            return _of_older_json(path, found)
        facts = typed(RunFacts, found)
        convert(Mapping[str, Mapping[str, Any]], facts.config, "config")
    if facts.format != PACK_FORMAT:
        raise PipelineError(f"{path}: format {facts.format}, this code reads {PACK_FORMAT}; {_PACK_ADVICE}")
    return facts


def _of_older_json(path: Path, found: Mapping[str, Any]) -> RunFacts:
    """Of a JSON of docs/results: hypotheses by split and id, without references and speakers."""
    texts = convert(Mapping[str, Mapping[str, str]], found["hypotheses"], "hypotheses")
    config = dict(convert(Mapping[str, Mapping[str, Any]], found.get("config"), "config"))
    seed = convert(int, found.get("seed", 0), "seed")
    evaluations = {
        split: Evaluation(
            found.get("evaluation", {}).get(split, {}),
            [HeardUtterance(id=key, reference="", hypothesis=text) for key, text in heard.items()],
        )
        for split, heard in texts.items()
    }
    return RunFacts(
        name=path.stem,
        config={**config, "trainer": {**config.get("trainer", {}), "seed": seed}},
        result=found.get("result", {}),
        metrics=[*found.get("dev", ()), *found.get("gradient", ())],
        evaluations={GREEDY: evaluations},
    )
