"""Masked-LM training of a teacher, from scratch or on from a model, on text that it will not label."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from teacher_cache.config import TeacherConfig, TeacherTrainingConfig
from teacher_cache.errors import CacheError
from teacher_cache.identity import identify_teacher
from teacher_cache.lock import BuildLock
from teacher_cache.progress import progress
from teacher_cache.teacher_examples import PlacedMasks, TokenTable, tokenise, training_order
from teacher_cache.teacher_folder import differing_keys, read_note, resolve_teacher, write_teacher
from teacher_cache.teacher_text import (
    SentenceCounts,
    SentenceRules,
    is_held_out,
    sample_sentences,
    sentence_hash,
)
from teacher_cache.teacher_trainer import (
    HELD_OUT_SENTENCES,
    HeldOutFigures,
    held_out_figures,
    make_trainer,
    training_arguments,
)
from teacher_cache.teacher_vocabulary import make_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTrainingRequest:
    """What to train, on what, and where to.

    text_paths : the files of config.text     vocabulary_path : where config.vocabulary is a path
    transcripts : normalised; they will be labelled, so no sentence that overlaps one is trained on
    normalise, unspeakable, normaliser : the transcripts' normaliser, what it raises, its identity
    output : the teacher's final folder     scratch : tokens and checkpoints; removed at the end
    device : "cpu", "cuda" or "mps"
    """

    config: TeacherTrainingConfig
    teacher: TeacherConfig
    text_paths: tuple[Path, ...]
    vocabulary_path: Path | None = None
    transcripts: Sequence[str]
    normalise: Callable[[str], str]
    unspeakable: type[Exception]
    normaliser: Mapping[str, Any]
    output: Path
    scratch: Path
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTrainingResult:
    """A finished teacher; every figure is of the run that trained it, also where its folder is reused.

    sentences : what became of the text; of those kept, `num_trained` were drawn for training
    on_transcripts : the same figures on transcripts, which it never trained on either
    resumed_step : 0 where the training ran in one go
    """

    folder: Path
    reused: bool
    before: HeldOutFigures
    after: HeldOutFigures
    on_transcripts: HeldOutFigures | None
    sentences: SentenceCounts
    num_trained: int
    seconds: float
    tokens_per_second: float
    precision: str
    resumed_step: int


@dataclass(frozen=True, slots=True)
class _Material:
    """What training needs of the text, as it lies in the scratch folder."""

    tokenizer: Any
    training: TokenTable
    held_out: TokenTable
    sentences: SentenceCounts = field(default_factory=SentenceCounts)


def train_teacher(request: TeacherTrainingRequest) -> TeacherTrainingResult:
    """Train, go on from the last checkpoint of an equal request, or return the finished teacher.

    Raises CacheError where `output` holds something else (the differing keys are named), where another
    process trains the same, and where text, vocabulary or base model cannot be used.
    """
    recipe = training_recipe(request)
    finished = _finished(request, recipe)
    if finished is not None:
        return finished
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    work = request.scratch / f"{request.output.name}-{digest}"
    with BuildLock(work / "lock"):
        note = _train(request, recipe, work)
    shutil.rmtree(work)
    return _result(request.output, note, reused=False)


def training_recipe(request: TeacherTrainingRequest) -> dict[str, Any]:
    """Everything that decides the weights, JSON-ready: two equal recipes train the same teacher."""
    for path in (*request.text_paths, *filter(None, [request.vocabulary_path])):
        if not path.is_file():
            raise CacheError(f"{path}: no such file; put it there, or name another under [teacher_training]")
    settings = asdict(request.config)
    del settings["save_every_steps"]  # decides nothing
    base: dict[str, Any] = {"model": request.teacher.model, "revision": request.teacher.revision}
    if request.teacher.model and Path(request.teacher.model).expanduser().is_dir():
        base["files_sha256"] = identify_teacher(Path(request.teacher.model).expanduser()).files_sha256
    transcripts = "\n".join(sorted(set(request.transcripts)))
    recipe = {
        "config": settings,
        "base": base,
        "text_sha256": [_sha256_of_file(path) for path in request.text_paths],
        "vocabulary_sha256": _sha256_of_file(request.vocabulary_path) if request.vocabulary_path else "",
        "normaliser": dict(request.normaliser),
        "transcripts_sha256": hashlib.sha256(transcripts.encode()).hexdigest(),
    }
    return dict(json.loads(json.dumps(recipe)))


def _finished(request: TeacherTrainingRequest, recipe: dict[str, Any]) -> TeacherTrainingResult | None:
    note = read_note(request.output)
    if note is None:
        if request.output.exists():
            raise CacheError(f"{request.output}: is no teacher trained here; choose another [teacher] name")
        return None
    differences = differing_keys(note.get("recipe", {}), recipe)
    if differences:
        raise CacheError(
            f"{request.output}: was trained otherwise ({'; '.join(differences)}); nothing was changed; "
            "choose another [teacher] name, or move the folder away"
        )
    return _result(request.output, note, reused=True)


def _train(request: TeacherTrainingRequest, recipe: dict[str, Any], work: Path) -> dict[str, Any]:
    """The whole training in its scratch folder, up to the published teacher; returns the teacher's note."""
    started, config = time.monotonic(), request.config
    base = resolve_teacher(request.teacher, work / "base") if request.teacher.model else None
    material = _material(request, base, work)
    bfloat16 = _has_bfloat16(request.device)
    attention = "eager" if bfloat16 and request.device == "cpu" else "sdpa"
    model = _model(config, base, material.tokenizer, attention).to(request.device)
    figures = lambda table: held_out_figures(model, table, material.tokenizer, config)  # noqa: E731
    before = _once(work / "before.json", lambda: figures(material.held_out).as_json())

    order = training_order(material.training.lengths, config.max_steps, config.batch_size, config.seed)
    masks = PlacedMasks(tokenizer=material.tokenizer, mlm_probability=config.mask_fraction, seed=config.seed)
    arguments = training_arguments(config, work / "checkpoints", request.device, bfloat16)
    checkpoint, resumed_step = _last_checkpoint(work / "checkpoints")
    with progress("training teacher", total=config.max_steps, unit="steps") as advance:
        trainer = make_trainer(model, material.training, order, masks, arguments, advance)
        training_started = time.monotonic()
        trainer.train(resume_from_checkpoint=checkpoint)
        training_seconds = time.monotonic() - training_started

    num_tokens = int(material.training.lengths[order[resumed_step * config.batch_size :]].sum())
    transcripts = _some_transcripts(request, material)
    base_note = (read_note(base) or {}) if base else {}
    note = {
        "name": request.teacher.name or request.output.name,
        "model": request.teacher.model,
        "revision": base_note.get("revision", request.teacher.revision),
        "licence": base_note.get("licence", ""),
        "normaliser": dict(request.normaliser),
        "recipe": recipe,
        "before": before,
        "after": figures(material.held_out).as_json(),
        "on_transcripts": figures(transcripts).as_json() if len(transcripts) else None,
        "sentences": asdict(material.sentences),
        "num_trained": len(material.training),
        "seconds": round(time.monotonic() - started, 1),
        "tokens_per_second": round(num_tokens / max(training_seconds, 1e-9), 1),
        "precision": "bfloat16" if bfloat16 else "float32",
        "resumed_step": resumed_step,
    }
    write_teacher(request.output, model, material.tokenizer, note)
    return note


def _material(request: TeacherTrainingRequest, base: Path | None, work: Path) -> _Material:
    """Tokens and tokenizer: made once, then read from the scratch folder."""
    from transformers import AutoTokenizer

    folder = work / "material"
    if not folder.is_dir():
        partial = work / "material.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _prepare_material(request, base, partial)
        partial.rename(folder)
    return _Material(
        AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        TokenTable.load(folder, "training"),
        TokenTable.load(folder, "held_out"),
        SentenceCounts(**json.loads((folder / "sentences.json").read_text(encoding="utf-8"))),
    )


def _prepare_material(request: TeacherTrainingRequest, base: Path | None, folder: Path) -> None:
    from transformers import AutoTokenizer

    config = request.config
    rules = SentenceRules(
        normalise=request.normalise,
        unspeakable=request.unspeakable,
        max_words=config.max_words,
        overlap_words=config.overlap_words,
    )
    limit = math.ceil(config.max_steps * config.batch_size / (1 - config.held_out_fraction))
    sample, counts = sample_sentences(request.text_paths, rules, request.transcripts, limit, config.seed)
    is_for_test = [is_held_out(sentence, config.held_out_fraction, config.seed) for sentence in sample]
    if not any(is_for_test) or all(is_for_test):
        raise CacheError(
            f"{len(sample)} sentences of text at held_out_fraction {config.held_out_fraction} leave none on one "
            "side; give more text, or raise held_out_fraction"
        )
    if base is None:
        tokenizer = make_tokenizer(config.vocabulary, config.vocabulary_size, request.vocabulary_path, sample)
        tokenizer.model_max_length = max_tokens = config.max_positions
    else:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        max_tokens = identify_teacher(base).max_tokens
    tokenizer.save_pretrained(folder)
    for name, wanted in (("training", False), ("held_out", True)):
        chosen = [text for text, held_out in zip(sample, is_for_test, strict=True) if held_out == wanted]
        tokenise(tokenizer, chosen, max_tokens).save(folder, name)
    (folder / "sentences.json").write_text(json.dumps(asdict(counts)), encoding="utf-8")


def _model(config: TeacherTrainingConfig, base: Path | None, tokenizer: Any, attention: str) -> Any:
    """A BERT with seeded random weights, or the base model, with the config's dropout.

    Attention runs eager under bfloat16 on CPUs: the backward pass of PyTorch 2.11's SDPA takes half of
    a training step there.
    """
    from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if base is not None:
        model = AutoModelForMaskedLM.from_pretrained(
            base,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=attention,
        )
    else:
        torch.manual_seed(config.seed)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.feed_forward_dim,
                max_position_embeddings=config.max_positions,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=0.0,  # costs most on a CPU, and a small teacher does without
                pad_token_id=tokenizer.pad_token_id,
                attn_implementation=attention,
            )
        )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and (base is not None or module.p > 0):
            module.p = config.dropout
    return model


def _has_bfloat16(device: str) -> bool:
    """True where the device computes in bfloat16 rather than emulating it; CacheError for an absent device."""
    if device == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if device == "cuda" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps" and torch.backends.mps.is_available():
        return False
    raise CacheError(f"device {device!r}: PyTorch finds none here; set it to cpu")


def _last_checkpoint(folder: Path) -> tuple[str | None, int]:
    """The newest whole checkpoint and its step; Trainer writes trainer_state.json last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    steps = {int(path.name.rpartition("-")[2]): path for path in whole}
    return (str(steps[max(steps)]), max(steps)) if steps else (None, 0)


def _some_transcripts(request: TeacherTrainingRequest, material: _Material) -> TokenTable:
    by_hash = sorted(set(request.transcripts), key=lambda text: sentence_hash(text, request.config.seed))
    return tokenise(
        material.tokenizer, by_hash[:HELD_OUT_SENTENCES], int(material.tokenizer.model_max_length)
    )


def _once(path: Path, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `path` holds, made at the first call: figures of the untrained model, before any checkpoint."""
    if not path.is_file():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(make()), encoding="utf-8")
        partial.replace(path)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _result(folder: Path, note: Mapping[str, Any], *, reused: bool) -> TeacherTrainingResult:
    transcripts = note["on_transcripts"]
    return TeacherTrainingResult(
        folder=folder,
        reused=reused,
        before=HeldOutFigures(**note["before"]),
        after=HeldOutFigures(**note["after"]),
        on_transcripts=HeldOutFigures(**transcripts) if transcripts else None,
        sentences=SentenceCounts(**note["sentences"]),
        num_trained=note["num_trained"],
        seconds=note["seconds"],
        tokens_per_second=note["tokens_per_second"],
        precision=note["precision"],
        resumed_step=note["resumed_step"],
    )


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
