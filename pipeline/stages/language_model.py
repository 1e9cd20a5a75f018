"""The stages of `bert2ctc lm ...`: n-grams are estimated, a network is trained, all are listed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import ExperimentConfig, as_tables
from pipeline.console import Report, say, table
from pipeline.corpus.prepared import sound_preparation
from pipeline.errors import PipelineError
from pipeline.language_model.folder import (
    ARPA_NAME,
    Note,
    finished,
    publish,
    read_note,
    units_digest,
)
from pipeline.language_model.kinds import NETWORK, UNITS, WORDS
from pipeline.language_model.text import TextRequest, language_text, text_recipe, words_of
from pipeline.normaliser import UnspeakableText, normalise, normaliser_identity
from pipeline.paths import Roots, language_model_folder, language_model_text
from student.data.manifest import read_manifest
from student.data.units import Units

_DRY_RUN_LINES = 20_000
_DECIMALS = 6


def estimate_ngram(config: ExperimentConfig, roots: Roots, kind: str, dry_run: bool) -> Report:
    """Estimate the n-gram of the config's words or units, unless an equal one is there.

    kind : WORDS or UNITS
    """
    request, units = text_request(config, roots), _units(config, roots)
    settings = config.language_model
    order = settings.word_order if kind == WORDS else settings.unit_order
    if dry_run:
        return _preview(request, units if kind == UNITS else None, order)
    folder = language_model_folder(config, roots, kind)
    recipe = {"order": order, **text_recipe(request), **_units_recipe(units if kind == UNITS else None)}
    if (note := finished(folder, kind, recipe)) is not None:
        return _report(folder, note, reused=True)
    from pipeline.language_model.arpa_writer import write_arpa
    from pipeline.language_model.kneser_ney import estimate_ngrams
    from pipeline.language_model.ngram_counts import bytes_needed
    from pipeline.language_model.ngram_perplexity import ngram_perplexity
    from pipeline.language_model.segmentation import as_pieces, known_pieces, unit_ids

    started = time.monotonic()
    text = language_text(request)

    # Words and pieces are made one sentence at a time: as lists they would take more than the counting.
    sentences: Iterable[Sequence[str]]
    if kind == WORDS:
        num_tokens, sentences = _num_words(text.sentences), words_of(text.sentences)
    else:
        spelt = unit_ids(text.sentences, units)
        num_tokens, sentences = sum(map(len, spelt)), as_pieces(spelt, units)
    num_tokens += 2 * len(text.sentences)
    needed = bytes_needed(num_tokens, order, *([units.size] if kind == UNITS else []))
    _require_memory(needed, f"{num_tokens:,} tokens: {order}-grams", kind)
    estimate = estimate_ngrams(sentences, order, known_pieces(units) if kind == UNITS else ())

    def cut(texts: Sequence[str]) -> Iterable[Sequence[str]]:
        return words_of(texts) if kind == WORDS else as_pieces(unit_ids(texts, units) if texts else [], units)

    measured = {"held_out": text.held_out, "dev": _dev(config, roots)}
    perplexities = {
        name: ngram_perplexity(estimate.model, cut(texts), _num_words(texts))
        for name, texts in measured.items()
    }
    figures = {
        "ngrams": [len(one) for one in estimate.model.orders],
        "discounts": [[round(amount, _DECIMALS) for amount in one.amounts] for one in estimate.discounts],
        "fallback_orders": [n for n, one in enumerate(estimate.discounts, 1) if one.is_fallback],
        "tokens": num_tokens,
        "perplexity": {name: asdict(found) if found else None for name, found in perplexities.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    note = publish(
        folder,
        lambda partial: write_arpa(estimate.model, partial / ARPA_NAME),
        kind=kind,
        recipe=recipe,
        units=units if kind == UNITS else None,
        text=text.described(),
        figures=figures,
    )
    _record(folder, config)
    return _report(folder, note, reused=False)


def train_language_model(config: ExperimentConfig, roots: Roots) -> Report:
    """Train the config's network over its units, or go on where a killed training was."""
    from pipeline.language_model.network_training import (
        forget,
        network_perplexity,
        scratch_of,
        token_table,
        train_network,
    )
    from pipeline.language_model.segmentation import unit_ids
    from student.training.device import choose_device

    request, units = text_request(config, roots), _units(config, roots)
    folder = language_model_folder(config, roots, NETWORK)
    settings = as_tables(config)["language_model"]
    ignored = ("text", "transcripts", "word_order", "unit_order", "save_every_steps")
    network = {key: value for key, value in settings.items() if key not in ignored}
    recipe = {**network, **text_recipe(request), **_units_recipe(units)}
    if (note := finished(folder, NETWORK, recipe)) is not None:
        return _report(folder, note, reused=True)
    started = time.monotonic()
    device = choose_device(config.student.trainer.device).type
    text = language_text(request)
    positions = config.language_model.max_positions
    tokens = token_table(unit_ids(text.sentences, units), positions)
    scratch = scratch_of(roots.scratch / "language_models", recipe)
    trained = train_network(tokens, config.language_model, units.size, scratch, device)
    measured = {"held_out": text.held_out, "dev": _dev(config, roots)}
    perplexities = {
        name: network_perplexity(
            trained.model, token_table(unit_ids(texts, units) if texts else [], positions), _num_words(texts)
        )
        for name, texts in measured.items()
    }
    figures = {
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "tokens": int(tokens.lengths.sum()),
        "tokens_per_second": round(trained.tokens_per_second, 1),
        "resumed_step": trained.resumed_step,
        "perplexity": {name: asdict(found) if found else None for name, found in perplexities.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    note = publish(
        folder,
        trained.model.cpu().save_pretrained,
        kind=NETWORK,
        recipe=recipe,
        units=units,
        text=text.described(),
        figures=figures,
    )
    _record(folder, config)
    forget(scratch)
    return _report(folder, note, reused=False)


def list_language_models(roots: Roots) -> Report:
    """The finished language models below the runs root."""
    folders = sorted(path.parent for path in (roots.runs / "language_models").glob("*/language_model.json"))
    notes = [(folder, read_note(folder)) for folder in folders]
    rows = [
        [
            folder.name,
            note.kind,
            f"{note.text.get('words', 0):,}",
            _shown(note, "held_out"),
            _shown(note, "dev"),
        ]
        for folder, note in notes
    ]
    columns = ["language model", "kind", "words", "held out, nats/word", "dev, nats/word"]
    facts = [{"folder": str(folder), **asdict(note), "digest": note.digest} for folder, note in notes]
    lines = [table("", columns, rows)] if rows else [f"no language model below {roots.runs}"]
    return Report({"language_models": facts}, lines)


def text_request(config: ExperimentConfig, roots: Roots) -> TextRequest:
    """What text a config's language models are made of; the splits that are measured leave theirs out."""
    prepared = sound_preparation(config, roots)
    texts = {
        name: [utterance.text for utterance in read_manifest(prepared / f"{name}.jsonl")]
        for name in config.data.splits
    }
    return TextRequest(
        config=config.language_model,
        paths=tuple(roots.data / name for name in language_model_text(config)),
        train=texts["train"],
        measured=[text for name, of_split in texts.items() if name != "train" for text in of_split],
        normalise=normalise,
        unspeakable=UnspeakableText,
        normaliser=normaliser_identity(),
    )


def _preview(request: TextRequest, units: Units | None, order: int) -> Report:
    """Tokens and memory, from the beginning of the text."""
    from pipeline.language_model.ngram_counts import bytes_needed
    from pipeline.language_model.text import words_in
    from teacher_cache.common.sizes import megabytes

    num_words, sample = words_in(request, _DRY_RUN_LINES)
    per_word = sum(len(units.encode(text)) for text in sample) / max(_num_words(sample), 1) if units else 1.0
    num_tokens = int(num_words * per_word + 2 * num_words / max(_num_words(sample) / max(len(sample), 1), 1))
    needed = bytes_needed(num_tokens, order, *([units.size] if units else []))
    facts = {"words": num_words, "tokens": num_tokens, "order": order, "memory_bytes": needed}
    return Report(
        facts,
        [
            f"about {num_words:,} words, {num_tokens:,} tokens with the sentences' ends",
            f"{order}-grams of them take up to {megabytes(needed)} of memory",
        ],
    )


def _require_memory(needed: int, what: str, kind: str) -> None:
    """Says what is needed at most. PipelineError where that is more than is free: half an hour of swapping,
    or a process that the kernel kills, tells nobody why."""
    from teacher_cache.common.memory import free_bytes
    from teacher_cache.common.sizes import megabytes

    free = free_bytes()
    if needed > free:
        raise PipelineError(
            f"{what} take up to {megabytes(needed)} of memory, {megabytes(free)} are free; lower "
            f"language_model.{'word' if kind == WORDS else 'unit'}_order or language_model.max_sentences"
        )
    say(f"{what} take up to {megabytes(needed)} of memory, {megabytes(free)} are free")


def _units(config: ExperimentConfig, roots: Roots) -> Units:
    return Units.from_file(sound_preparation(config, roots) / "units.model")


def _units_recipe(units: Units | None) -> dict[str, str]:
    return {"units_sha256": units_digest(units)} if units else {}


def _dev(config: ExperimentConfig, roots: Roots) -> list[str]:
    if "dev" not in config.data.splits:
        return []
    dev = read_manifest(sound_preparation(config, roots) / "dev.jsonl")
    return [utterance.text for utterance in dev if utterance.text]


def _num_words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


def _record(folder: Path, config: ExperimentConfig) -> None:
    from pipeline.run_record import provenance, write_record

    write_record(folder, {"config": as_tables(config), **provenance()})


def _shown(note: Note, split: str) -> str:
    found = note.figures.get("perplexity", {}).get(split)
    return f"{found['nats_per_word']:.3f}" if found else "-"


def _report(folder: Path, note: Note, *, reused: bool) -> Report:
    facts: dict[str, Any] = {
        "folder": str(folder), "is_reused": reused, "digest": note.digest, "kind": note.kind,
        "text": dict(note.text), **note.figures,
    }  # fmt: skip
    text, figures = note.text, note.figures
    done = "made already, nothing to do" if reused else f"made in {figures['seconds']:.0f} s"
    lines: list[Any] = [
        f"{folder}: {done}",
        f"{text['sentences']:,} sentences, {text['words']:,} words; {text['transcripts']:,} of them training "
        f"transcripts; left out as overlapping: {text['overlapping']:,} of the text, "
        f"{text['transcripts_left_out']:,} transcripts",
    ]
    if note.kind != NETWORK:
        rows = [
            [str(length), f"{count:,}", *(f"{amount:.4f}" for amount in amounts)]
            for length, (count, amounts) in enumerate(
                zip(figures["ngrams"], figures["discounts"], strict=True), 1
            )
        ]
        lines.append(table("", ["order", "n-grams", "D1", "D2", "D3+"], rows))
        if figures["fallback_orders"]:
            orders = ", ".join(map(str, figures["fallback_orders"]))
            lines.append(
                f"too few counts for discounts of order {orders}: 0.5, 1 and 1.5 there, as lmplz has it"
            )
    else:
        lines.append(f"{figures['parameters']:,} parameters, {figures['tokens_per_second']:,.0f} tokens/s")
    shown = [
        [
            name.replace("_", "-"),
            f"{found['perplexity']:.2f}",
            f"{found['nats_per_word']:.3f}",
            f"{found['unknown']:,}",
        ]
        for name, found in figures["perplexity"].items()
        if found
    ]
    lines.append(table("", ["of", "perplexity per token", "nats per word", "unknown"], shown))
    return Report(facts, lines)
