"""The stage `bert2ctc tune`: weights of decoders with language models, searched on a run's dev split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import Report, say, table
from pipeline.corpus.audio_check import silent_mp3_decoder
from pipeline.errors import PipelineError
from pipeline.language_model.folder import file_digest
from pipeline.paths import Roots
from pipeline.run_record import run_of
from pipeline.stages.fused_decoders import (
    Opened,
    language_model_digest,
    open_fused,
    row_name,
    settings_of,
)
from student.decoding.names import BEAM_LM, BEAM_NGRAM, FUSED, WORDS

if TYPE_CHECKING:
    from student.data.manifest import Utterance
    from student.inference.recogniser import Recogniser
    from student.inference.tuning import HeardSplit
    from student.inference.tuning_file import Tuning

SPLIT = "dev"  # never test


def tune_run(
    run_dir: Path,
    roots: Roots,
    beam_ngram: Path | None = None,
    beam_lm: Path | None = None,
    words: Path | None = None,
    lexicon: Path | None = None,
    beam: Mapping[str, int] | None = None,
    utterances: int = 0,
    label: str = "",
    device: str = "auto",
    average_count: int = 0,
    average_of: str = "last",
    reuse: bool = False,
) -> Report:
    """Tune each decoder whose language model is given, on the same logits, and write <run>/tuning/<row>.json.

    beam : hypotheses that are kept, by decoder, else its own     utterances : of dev, 0: all
    label : names rows beside others of the same decoder
    reuse : weights that were found from equal inputs are not searched again
    """
    from student.data.manifest import read_manifest
    from student.inference.averaging import Average
    from student.inference.recogniser import load_recogniser
    from student.inference.tuning import hear
    from student.inference.tuning_file import tuning_path, write_tuning

    models = {BEAM_NGRAM: beam_ngram, BEAM_LM: beam_lm, WORDS: words}
    chosen = {decoder: path for decoder in FUSED if (path := models[decoder]) is not None}
    if not chosen:
        raise PipelineError("nothing to tune; give a language model: --beam-ngram, --beam-lm or --words")
    started = time.monotonic()
    prepared = Path(run_of(run_dir)["prepared"])
    average = Average(count=average_count, of=average_of) if average_count else None
    recogniser = load_recogniser(run_dir, device, average)
    say(recogniser.description)
    manifest = prepared / f"{SPLIT}.jsonl"
    asked = _spread(read_manifest(manifest), utterances)
    wanted = {
        decoder: _Wanted(
            decoder,
            language_model,
            lexicon if decoder == WORDS else None,
            {"beam": beam[decoder]} if beam and decoder in beam else {},
            file_digest(manifest, "prepare the corpus again with `bert2ctc data prepare`"),
            len(asked),
        )
        for decoder, language_model in chosen.items()
    }
    paths = {
        one: tuning_path(run_dir, row_name(one, label), average.name if average else "") for one in wanted
    }
    found = {one: _equal(wanted[one], paths[one], recogniser) if reuse else None for one in wanted}
    opened = {one: _open(wanted[one], recogniser) for one, tuning in found.items() if tuning is None}
    if is_reused := not opened:
        say("tuned before from equal inputs, nothing to do")
    else:  # what cannot be opened is told before dev is heard
        with silent_mp3_decoder(prepared):
            heard = hear(recogniser, asked, roots.data, SPLIT)
    tunings = {}
    for decoder, tuning in found.items():
        if tuning is None:
            tuning = _tuned(wanted[decoder], opened[decoder], recogniser, heard)
            write_tuning(paths[decoder], tuning)
        tunings[row_name(decoder, label)] = {"path": str(paths[decoder]), "tuning": tuning}
    facts = {"is_reused": is_reused, "seconds": round(time.monotonic() - started, 1)}
    return _report(run_dir, tunings, facts)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a tuning is made from, beside the student. manifest : its digest"""

    decoder: str
    language_model: Path
    lexicon: Path | None
    settings: Mapping[str, int]
    manifest: str
    utterances: int


def _equal(wanted: _Wanted, path: Path, recogniser: Recogniser) -> Tuning | None:
    """The tuning that lies there, where it was made from the same."""
    from student.inference.tuning_file import model_digest, stored_tuning

    tuning = stored_tuning(path)
    if tuning is None:
        return None
    found = (
        tuning.decoder, tuning.model, tuning.language_model, tuning.lexicon, tuning.manifest,
        tuning.utterances, dict(tuning.settings), tuning.language_model_digest,
    )  # fmt: skip
    asked = (
        wanted.decoder, model_digest(recogniser), *map(_named, (wanted.language_model, wanted.lexicon)),
        wanted.manifest, wanted.utterances, settings_of(wanted.decoder, wanted.settings),
        language_model_digest(wanted.decoder, wanted.language_model, wanted.lexicon),
    )  # fmt: skip
    return tuning if found == asked else None


def _named(path: Path | None) -> str:
    return str(path.absolute()) if path else ""


def _spread(utterances: Sequence[Utterance], count: int) -> Sequence[Utterance]:
    """So many, evenly spread; all for 0."""
    if not count or count >= len(utterances):
        return utterances
    return [utterances[place * len(utterances) // count] for place in range(count)]


def _open(wanted: _Wanted, recogniser: Recogniser) -> Opened:
    return open_fused(wanted.decoder, recogniser, wanted.language_model, wanted.lexicon, wanted.settings)


def _tuned(wanted: _Wanted, opened: Opened, recogniser: Recogniser, heard: HeardSplit) -> Tuning:
    from student.inference.tuning import prior_of, tune
    from student.inference.tuning_file import Trial, Tuning, model_digest

    started, decoder = time.monotonic(), wanted.decoder
    log_prior = None if decoder == WORDS else prior_of(heard)
    say(f"tuning {decoder} on {len(heard.utterances):,} utterances of {heard.name}")
    tuned = tune(lambda weights: opened.make(weights, log_prior), opened.axes, heard, recogniser, say)
    weights = tuned.found.weights
    return Tuning(
        decoder=decoder,
        model=model_digest(recogniser),
        checkpoint=recogniser.source.name,
        language_model=_named(wanted.language_model),
        language_model_digest=opened.digest,
        lexicon=_named(wanted.lexicon),
        weights=weights,
        settings=opened.settings,
        log_prior=() if log_prior is None else tuple(round(value, 6) for value in log_prior.tolist()),
        split=heard.name,
        utterances=len(heard.utterances),
        greedy_wer=tuned.greedy.wer,
        wer=tuned.errors.wer,
        cer=tuned.errors.cer,
        seconds=round(time.monotonic() - started, 1),
        trials=tuple(
            Trial(
                language=tried.language,
                insertion=tried.insertion,
                prior=tried.prior,
                wer=errors[0],
                cer=errors[1],
            )
            for tried, errors in tuned.found.tried.items()
        ),
        manifest=wanted.manifest,
    )


def _report(run_dir: Path, tunings: dict[str, dict[str, Any]], facts: Mapping[str, Any]) -> Report:
    rows = []
    for row, entry in tunings.items():
        tuning: Tuning = entry["tuning"]
        figures = (tuning.weights.language, tuning.weights.insertion, tuning.weights.prior)
        rates = (f"{100 * rate:.2f}" for rate in (tuning.greedy_wer, tuning.wer, tuning.cer))
        rows.append([row, *(f"{figure:g}" for figure in figures), *rates, f"{len(tuning.trials):,}"])
    columns = ["decoder", "language", "insertion", "prior", "greedy WER %", "WER %", "CER %", "tried"]
    result = {row: {"path": entry["path"], **asdict(entry["tuning"])} for row, entry in tunings.items()}
    return Report(
        {"run": str(run_dir), "tunings": result, **facts},
        [table("", columns, rows), *(f"{row}: {entry['path']}" for row, entry in tunings.items())],
    )
