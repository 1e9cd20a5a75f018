"""Decoders by their names: what each needs of language models, opened once and weighed as often as needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.language_model.folder import file_digest
from pipeline.language_model.kinds import WORDS as OF_WORDS
from student.decoding.names import BEAM, FUSED, WORDS
from teacher_cache.settings import NAME_RULE, is_name, shown_value

if TYPE_CHECKING:
    from torch import Tensor

    from student.decoding.interface import Decoder
    from student.decoding.weight_search import Axis
    from student.decoding.weights import FusionWeights
    from student.inference.recogniser import Recogniser

Make = Callable[["FusionWeights", "Tensor | None"], "Decoder"]


@dataclass(frozen=True, slots=True)
class Opened:
    """A decoder whose language model is in memory.

    make : the decoder with some weights and, for a weight of it above 0, the student's label prior
    axes : the weights that it has
    digest : names the language model, with the lexicon     settings : by name, as a tuning keeps them
    """

    make: Make
    axes: Sequence[Axis]
    digest: str
    settings: Mapping[str, float]


def open_fused(
    decoder: str,
    recogniser: Recogniser,
    language_model: Path,
    lexicon: Path | None = None,
    settings: Mapping[str, float] | None = None,
) -> Opened:
    """The decoder of FUSED with its language model, for a student.

    settings : of its dataclass, by name; what is absent has its default
    Raises PipelineError, or StudentError, for files that are broken or made for other units.
    """
    if decoder == WORDS:
        return _words(recogniser, language_model, lexicon, settings or {})
    from pipeline.language_model.folder import open_scorer
    from student.decoding.beam import BeamDecoder, BeamSettings
    from student.inference.tuning import UNIT_AXES

    scorer = open_scorer(language_model, recogniser.units)
    chosen = _settings(BeamSettings, settings or {})

    def make(weights: FusionWeights, log_prior: Tensor | None) -> Decoder:
        return BeamDecoder(
            name=decoder,
            units=recogniser.units,
            settings=chosen,
            scorer=scorer,
            weights=weights,
            log_prior=log_prior,
        )

    return Opened(make, UNIT_AXES, scorer.digest, asdict(chosen))


def open_tuned(
    decoder: str,
    recogniser: Recogniser,
    run_dir: Path,
    row: str,
    average: str,
    language_model: Path | None,
    lexicon: Path | None,
    say: Callable[[str], None],
) -> Decoder:
    """The decoder as `bert2ctc tune` left it in the run, which is said; `beam` as it is.

    row : of `row_name`     average : the name of the averaged checkpoints, "" for the run's own model
    Raises StudentError where it was never tuned, or for another student or language model.
    """
    if decoder == BEAM:
        from student.decoding.beam import BeamDecoder

        return BeamDecoder(name=BEAM, units=recogniser.units)
    import torch

    from student.inference.tuning_file import read_tuning, refuse_another_model, tuning_path

    path = tuning_path(run_dir, row, average)
    tuning = read_tuning(path, recogniser, decoder)
    model = language_model or Path(tuning.language_model)
    words = lexicon or (Path(tuning.lexicon) if tuning.lexicon else None)
    log_prior = torch.tensor(tuning.log_prior) if tuning.log_prior else None
    opened = open_fused(decoder, recogniser, model, words, tuning.settings)
    refuse_another_model(tuning, opened.digest, model, path)
    weights = ", ".join(f"{name} {value:g}" for name, value in asdict(tuning.weights).items())
    say(f"{decoder}: {weights}, tuned on {tuning.utterances:,} utterances of {tuning.split} ({path})")
    return opened.make(tuning.weights, log_prior)


def tuned_inputs(
    decoder: str, run_dir: Path, row: str, average: str, language_model: Path | None, lexicon: Path | None
) -> dict[str, str]:
    """Digests of what `open_tuned` reads beside the student, by name; {} for greedy, beam, and untuned."""
    from student.inference.tuning_file import stored_tuning, tuning_path

    if decoder not in FUSED:
        return {}
    path = tuning_path(run_dir, row, average)
    tuning = stored_tuning(path)
    if tuning is None:
        return {}
    model = language_model or Path(tuning.language_model)
    words = lexicon or (Path(tuning.lexicon) if tuning.lexicon else None)
    return {
        "tuning": file_digest(path, "tune again with `bert2ctc tune RUN`"),
        "language_model": language_model_digest(decoder, model, words),
    }


def language_model_digest(decoder: str, language_model: Path, lexicon: Path | None = None) -> str:
    """`Opened.digest` of a decoder of FUSED, without opening it."""
    from pipeline.language_model.folder import ARPA_NAME, read_note

    if decoder == WORDS:
        return _files_digest(
            language_model / ARPA_NAME if language_model.is_dir() else language_model, lexicon
        )
    return read_note(language_model).digest if language_model.is_dir() else file_digest(language_model)


def row_name(decoder: str, label: str) -> str:
    """What a decoder's weights and results are called: its name, or that and a label."""
    if label and not is_name(label):
        raise PipelineError(f"label {shown_value(label)} is no name: {NAME_RULE}")
    return f"{decoder}-{label}" if label else decoder


def _words(
    recogniser: Recogniser, language_model: Path, lexicon: Path | None, settings: Mapping[str, float]
) -> Opened:
    from pipeline.language_model.arpa import read_arpa
    from pipeline.language_model.folder import ARPA_NAME, read_note
    from pipeline.language_model.ngram_model import END, START, UNKNOWN
    from student.decoding.words import WordsDecoder, WordSearchSettings
    from student.inference.tuning import WORD_AXES

    arpa = language_model
    if language_model.is_dir():
        if read_note(language_model).kind != OF_WORDS:
            raise PipelineError(f"{language_model}: is no n-gram of words, which the decoder words takes")
        arpa = language_model / ARPA_NAME
    known = frozenset(read_arpa(arpa).words) - {START, END, UNKNOWN}
    words = known if lexicon is None else _chosen_words(lexicon, known, recogniser.units.pieces)
    chosen = _settings(WordSearchSettings, settings)

    def make(weights: FusionWeights, _: Tensor | None) -> Decoder:
        return WordsDecoder(units=recogniser.units, arpa=arpa, words=words, weights=weights, settings=chosen)

    return Opened(make, WORD_AXES, _files_digest(arpa, lexicon), asdict(chosen))


def _chosen_words(lexicon: Path, known: frozenset[str], pieces: Sequence[str]) -> frozenset[str]:
    """The words of a lexicon: one a line, with its units behind it where it is a lexicon of another tool.

    Raises PipelineError for a unit that the student does not have, and for words that the n-gram lacks.
    """
    units, words = set(pieces[1:]), set()
    for number, line in FILES.lines(lexicon, "give one word a line, or a word and its units"):
        word, *spelling = line.split() or [""]
        unknown = next((unit for unit in spelling if unit not in units), None)
        if unknown is not None:
            raise PipelineError(
                f"{lexicon}: line {number} spells {word!r} with {unknown!r}, no unit of the student; "
                "make the lexicon of its units.vocab"
            )
        words.add(word)
    if not words & known:
        raise PipelineError(
            f"{lexicon}: none of its {len(words)} words is in the n-gram; give its own lexicon"
        )
    return frozenset(words & known)


def settings_of(decoder: str, given: Mapping[str, float]) -> dict[str, float]:
    """All settings of a decoder of FUSED, by name, as a tuning keeps them; what is not given is its own."""
    from student.decoding.beam import BeamSettings
    from student.decoding.words import WordSearchSettings

    return asdict(_settings(WordSearchSettings if decoder == WORDS else BeamSettings, given))


def _settings(kind: type[Any], given: Mapping[str, float]) -> Any:
    from teacher_cache.common.typed import typed

    with FILES.faults_told("the decoder's settings", "tune again with `bert2ctc tune RUN`"):
        return typed(kind, dict(given))


def _files_digest(*paths: Path | None) -> str:
    found = hashlib.sha256()
    for path in filter(None, paths):
        found.update(bytes.fromhex(file_digest(path, "give another file")))
    return found.hexdigest()
