"""The stage `bert2ctc evaluate`: what a trained student recognises of its own corpus' splits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import Report, say, table
from pipeline.corpus.audio_check import silent_mp3_decoder
from pipeline.errors import PipelineError
from pipeline.paths import Roots
from pipeline.run_record import run_of
from pipeline.stages.fused_decoders import open_tuned, row_name, tuned_inputs
from student.decoding.names import FUSED, GREEDY

if TYPE_CHECKING:
    from student.decoding.interface import Decoder
    from student.inference.recogniser import Recogniser


def evaluate_run(
    run_dir: Path,
    roots: Roots,
    splits: Sequence[str],
    device: str,
    average_count: int = 0,
    average_of: str = "last",
    decoders: Sequence[str] = (GREEDY,),
    label: str = "",
    language_model: Path | None = None,
    lexicon: Path | None = None,
    reuse: bool = False,
) -> Report:
    """Word and character errors of a run's student on its own corpus' splits, by each decoder.

    average_count, average_of : the mean of so many of its last or best checkpoints instead; 0: of none
    decoders, label : with what `bert2ctc tune` found for each and the label, but for greedy and beam
    language_model, lexicon : None: where they lay when they were tuned
    reuse : what was evaluated from equal inputs is taken as it was
    """
    from student.inference.averaging import Average
    from student.inference.evaluation import DecodedRow, evaluate_rows
    from student.inference.evaluation_files import evaluation_folder

    record = run_of(run_dir)
    prepared = Path(record["prepared"])
    known = [name for name in record["config"].get("data", {}).get("splits", {}) if name != "train"]
    unknown = set(splits) - set(known) - {"train"}
    if unknown:
        raise PipelineError(
            f"no split {', '.join(sorted(unknown))}; this run's corpus has {', '.join(known)}, train"
        )
    if language_model and len([one for one in decoders if one in FUSED]) > 1:
        raise PipelineError(f"--lm {language_model}: of one decoder; evaluate the others by a command each")
    manifests = {name: prepared / f"{name}.jsonl" for name in splits or known}
    started = time.monotonic()
    with silent_mp3_decoder(prepared):
        average = Average(count=average_count, of=average_of) if average_count else None
        name = average.name if average else ""

        def decoded(decoder: str, row: str) -> DecodedRow:
            def opened(recogniser: Recogniser) -> Decoder:
                return open_tuned(decoder, recogniser, run_dir, row, name, language_model, lexicon, say)

            inputs = tuned_inputs(decoder, run_dir, row, name, language_model, lexicon)
            return DecodedRow(None if decoder == GREEDY else opened, inputs)

        rows = {row: decoded(one, row) for one in decoders for row in (row_name(one, label),)}
        found = evaluate_rows(run_dir, manifests, roots.data, rows, device, say, average, reuse)
    result = {
        "run": str(run_dir),
        "splits": next(iter(found.scores.values())),
        "rows": found.scores,
        "is_reused": found.is_reused,
        "seconds": time.monotonic() - started,
    }
    lines: list[Any] = []
    for row, scores in found.scores.items():
        folder = evaluation_folder(run_dir, row, name)
        title = row if len(found.scores) > 1 else ""
        lines += [_score_table(title, scores), f"references and hypotheses: {folder}"]
    return Report(result, lines)


def _score_table(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Any:
    taps = sorted({layer for score in scores.values() for layer in score["tap_wer"]}, key=int)
    columns = ["split", "WER %", "CER %", "S", "D", "I", "words", *(f"WER % layer {tap}" for tap in taps)]
    rows = [
        [
            name,
            f"{100 * score['wer']:.2f}",
            f"{100 * score['cer']:.2f}",
            *(f"{score[key]:,}" for key in ("substitutions", "deletions", "insertions", "words")),
            *(f"{100 * score['tap_wer'][tap]:.2f}" for tap in taps),
        ]
        for name, score in scores.items()
    ]
    return table(title, columns, rows)
