"""Masked-LM training of a teacher, from scratch or on from a model, on text that it will not label."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from teacher_cache.common.differences import differences, listed, phrases
from teacher_cache.common.files import FILES, write_json
from teacher_cache.common.lock import BuildLock
from teacher_cache.common.progress import progress
from teacher_cache.config import TeacherTrainingConfig
from teacher_cache.errors import CacheError
from teacher_cache.teacher.folder import read_note, resolve_teacher, write_teacher
from teacher_cache.teacher_training.examples import SeededMasks, training_order
from teacher_cache.teacher_training.request import (
    TeacherTrainingRequest,
    TeacherTrainingResult,
    result_from_note,
    training_recipe,
)
from teacher_cache.teacher_training.tokens import Material, prepare_material
from teacher_cache.teacher_training.trainer import held_out_figures, make_trainer
from teacher_cache.teacher_training.transformers_trainer import last_checkpoint, training_arguments


def train_teacher(request: TeacherTrainingRequest) -> TeacherTrainingResult:
    """Train, go on from the last checkpoint of an equal request, or return the finished teacher.

    Raises CacheError where `output` holds something else (the differing keys are named), where another
    process trains the same, and where text, vocabulary, base model or device cannot be used.
    """
    recipe = training_recipe(request)
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    work = request.scratch / f"{request.output.name}-{digest}"
    note = _finished(request.output, recipe)
    if note is not None:
        shutil.rmtree(work, ignore_errors=True)  # of a process that ended between its last two lines
        return result_from_note(request.output, note, reused=True)
    bfloat16 = _has_bfloat16(request.device)
    with BuildLock(work / "lock"):
        note = _train(request, recipe, work, bfloat16)
        shutil.rmtree(work)
    return result_from_note(request.output, note, reused=False)


def _finished(output: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    note = read_note(output)
    if note is None:
        if output.exists():
            raise CacheError(f"{output}: holds no teacher trained here; choose another [teacher] name")
        return None
    found = differences(note.get("recipe", {}), recipe)
    if found:
        raise CacheError(
            f"{output}: was trained otherwise ({listed(phrases(found))}); nothing was changed; "
            "choose another [teacher] name, or move the folder away"
        )
    return note


def _train(
    request: TeacherTrainingRequest, recipe: dict[str, Any], work: Path, bfloat16: bool
) -> dict[str, Any]:
    """The whole training in its scratch folder, up to the published teacher; returns the teacher's note."""
    started = time.monotonic()
    base = resolve_teacher(request.teacher, work / "base") if request.teacher.model else None
    material = prepare_material(request, base, work / "material")
    attention = "eager" if bfloat16 and request.device == "cpu" else "sdpa"
    model = _model(request.config, base, material.tokenizer, attention).to(request.device)

    def figures(name: str) -> dict[str, Any] | None:
        table = getattr(material, name)
        measured = held_out_figures(model, table, material.tokenizer, request.config) if len(table) else None
        return asdict(measured) if measured else None

    before = _once(work / "before.json", lambda: figures("held_out"))
    speed = _fit(request, material, model, work / "checkpoints", bfloat16)
    base_note = (read_note(base) or {}) if base else {}
    note = {
        "name": request.teacher.name or request.output.name,
        "model": request.teacher.model,
        "revision": base_note.get("revision", request.teacher.revision),
        "licence": base_note.get("licence", ""),
        "normaliser": dict(request.normaliser),
        "recipe": recipe,
        "before": before,
        "after": figures("held_out"),
        "on_transcripts": figures("transcripts"),
        "sentences": asdict(material.sentences),
        "num_trained": len(material.training),
        "seconds": round(time.monotonic() - started, 1),
        "precision": "bfloat16" if bfloat16 else "float32",
        **speed,
    }
    write_teacher(request.output, model, material.tokenizer, note)
    return note


def _fit(
    request: TeacherTrainingRequest, material: Material, model: Any, checkpoints: Path, bfloat16: bool
) -> dict[str, float]:
    """Run transformers' Trainer to the last step; returns tokens_per_second and resumed_step."""
    config = request.config
    order = training_order(material.training.lengths, config.max_steps, config.batch_size, config.seed)
    masks = SeededMasks(tokenizer=material.tokenizer, mlm_probability=config.mask_fraction, seed=config.seed)
    arguments = training_arguments(config, checkpoints, request.device, bfloat16)
    checkpoint, resumed_step = last_checkpoint(checkpoints)
    with progress("training teacher", total=config.max_steps, unit="steps") as advance:
        trainer = make_trainer(model, material.training, order, masks, arguments, advance)
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=checkpoint)
        seconds = time.monotonic() - started
    num_tokens = int(material.training.lengths[order[resumed_step * config.batch_size :]].sum())
    return {"tokens_per_second": round(num_tokens / max(seconds, 1e-3), 1), "resumed_step": resumed_step}


def _model(config: TeacherTrainingConfig, base: Path | None, tokenizer: Any, attention: str) -> Any:
    """A BERT with seeded random weights, or the base model, with the config's dropout.

    Attention runs eager under bfloat16 on CPUs: the backward pass of PyTorch 2.11's SDPA takes half of
    a training step there.
    """
    from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if base is None:
        torch.manual_seed(config.seed)
        return BertForMaskedLM(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.feed_forward_dim,
                max_position_embeddings=config.max_positions,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=0.0,  # costs most on a CPU; a small teacher does without
                pad_token_id=tokenizer.pad_token_id,
                attn_implementation=attention,
            )
        )
    model = AutoModelForMaskedLM.from_pretrained(
        base,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,  # whatever the file holds: half-precision weights swallow small updates
        attn_implementation=attention,
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = config.dropout
    return model


def _has_bfloat16(device: str) -> bool:
    """True where the device computes in bfloat16 and does not emulate it. CacheError for an absent device."""
    if device == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if device == "cuda" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "mps" and torch.backends.mps.is_available():
        return False
    raise CacheError(f"device {device!r}: PyTorch finds none here; set it to cpu")


def _once(path: Path, make: Callable[[], Any]) -> Any:
    """What `path` holds, made at the first call: training loses the figures of the untrained model."""
    if not path.is_file():
        write_json(path, make())
    return FILES.json(path, "delete it and run again")
