"""The stage `bert2ctc tune`: weights of decoders with language models, searched on a run's dev split."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import Report, say, table
from pipeline.corpus.audio_check import silent_mp3_decoder
from pipeline.errors import PipelineError
from pipeline.paths import Roots
from pipeline.run_record import run_of
from pipeline.stages.fused_decoders import BEAM_LM, BEAM_NGRAM, FUSED, WORDS, open_fused, row_name

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
    beam: int = 0,
    utterances: int = 0,
    label: str = "",
    device: str = "auto",
    average_count: int = 0,
    average_of: str = "last",
) -> Report:
    """Tune each decoder whose language model is given, on the same logits, and write <run>/tuning/<row>.json.

    beam : hypotheses that are kept, 0: the decoder's own     utterances : of dev, 0: all
    label : names rows beside others of the same decoder
    """
    from student.inference.averaging import Average
    from student.inference.recogniser import load_recogniser
    from student.inference.tuning import hear
    from student.inference.tuning_file import tuning_path, write_tuning

    models = {BEAM_NGRAM: beam_ngram, BEAM_LM: beam_lm, WORDS: words}
    chosen = {decoder: path for decoder in FUSED if (path := models[decoder]) is not None}
    if not chosen:
        raise PipelineError("nothing to tune; give a language model: --beam-ngram, --beam-lm or --words")
    prepared = Path(run_of(run_dir)["prepared"])
    average = Average(count=average_count, of=average_of) if average_count else None
    recogniser = load_recogniser(run_dir, device, average)
    say(recogniser.description)
    with silent_mp3_decoder(prepared):
        heard = hear(recogniser, _spread(_dev(prepared), utterances), roots.data, SPLIT)
    tunings = {}
    for decoder, language_model in chosen.items():
        own_lexicon = lexicon if decoder == WORDS else None
        tuning = _tuned(decoder, language_model, own_lexicon, beam, recogniser, heard)
        row = row_name(decoder, label)
        path = tuning_path(run_dir, row, average.name if average else "")
        write_tuning(path, tuning)
        tunings[row] = {"path": str(path), "tuning": tuning}
    return _report(run_dir, tunings)


def _dev(prepared: Path) -> Sequence[Utterance]:
    from student.data.manifest import read_manifest

    return read_manifest(prepared / f"{SPLIT}.jsonl")


def _spread(utterances: Sequence[Utterance], count: int) -> Sequence[Utterance]:
    """So many, evenly spread; all for 0."""
    if not count or count >= len(utterances):
        return utterances
    return [utterances[place * len(utterances) // count] for place in range(count)]


def _tuned(
    decoder: str,
    language_model: Path,
    lexicon: Path | None,
    beam: int,
    recogniser: Recogniser,
    heard: HeardSplit,
) -> Tuning:
    from student.inference.tuning import prior_of, tune
    from student.inference.tuning_file import Trial, Tuning, model_digest

    started = time.monotonic()
    log_prior = None if decoder == WORDS else prior_of(heard)
    settings = {"beam": beam} if beam else None
    opened = open_fused(decoder, recogniser, language_model, lexicon, settings, log_prior)
    say(f"tuning {decoder} on {len(heard.utterances):,} utterances of {heard.name}")
    tuned = tune(opened.make, opened.axes, heard, recogniser, say)
    weights = tuned.found.weights
    return Tuning(
        decoder=decoder,
        model=model_digest(recogniser),
        checkpoint=recogniser.source.name,
        language_model=str(language_model.absolute()),
        language_model_digest=opened.digest,
        lexicon=str(lexicon.absolute()) if lexicon else "",
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
    )


def _report(run_dir: Path, tunings: dict[str, dict[str, Any]]) -> Report:
    rows = []
    for row, entry in tunings.items():
        tuning: Tuning = entry["tuning"]
        figures = (tuning.weights.language, tuning.weights.insertion, tuning.weights.prior)
        rates = (f"{100 * rate:.2f}" for rate in (tuning.greedy_wer, tuning.wer, tuning.cer))
        rows.append([row, *(f"{figure:g}" for figure in figures), *rates, f"{len(tuning.trials):,}"])
    columns = ["decoder", "language", "insertion", "prior", "greedy WER %", "WER %", "CER %", "tried"]
    result = {row: {"path": entry["path"], **asdict(entry["tuning"])} for row, entry in tunings.items()}
    return Report(
        {"run": str(run_dir), "tunings": result},
        [table("", columns, rows), *(f"{row}: {entry['path']}" for row, entry in tunings.items())],
    )
