"""How large a student is, is known before any of it is there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training_checkpoint import checkpoint_of_student

from student.config import DecoderConfig, ObjectiveConfig, StudentConfig
from student.encoder_config import ConformerConfig
from student.errors import StudentError
from student.inference.export import inference_model
from student.model.size import TRAINED_WEIGHT_BYTES, require_room, shapes_of
from student.model.student_model import Bert2CTC, inference_state
from teacher_cache.common.memory import machine_bytes

SMALL = {
    "num_layers": 3,
    "model_dim": 8,
    "num_heads": 2,
    "feed_forward_dim": 12,
    "subsampling_channels": 4,
    "taps": (1, 2),
}
HUGE = {**SMALL, "num_layers": 256, "model_dim": 16_384, "feed_forward_dim": 65_536}


def config_of(conformer: Mapping[str, object], **tables: object) -> StudentConfig:
    return replace(StudentConfig(), conformer=ConformerConfig(**conformer), **tables)  # type: ignore[arg-type]


@settings(max_examples=12, deadline=None)
@given(
    branch=st.sampled_from(["attention", "alignment"]),
    subsampling=st.sampled_from([4, 8]),
    is_shared=st.booleans(),
    conditions=st.booleans(),
    num_pieces=st.none() | st.integers(3, 9),
)
def test_the_shapes_are_those_of_the_model(
    branch: str, subsampling: int, is_shared: bool, conditions: bool, num_pieces: int | None
) -> None:
    config = config_of(
        {**SMALL, "subsampling": subsampling, "self_conditioning": conditions},
        decoder=DecoderConfig(num_layers=1, num_heads=2, feed_forward_dim=8, shared=is_shared),
        objective=ObjectiveConfig(branch=branch),
    )
    model = Bert2CTC(config, 11, num_pieces)
    assert shapes_of(config, 11, num_pieces) == {n: t.shape for n, t in model.state_dict().items()}


def test_a_student_larger_than_the_machine_is_one_line_and_never_allocated() -> None:
    cpu = torch.device("cpu")
    require_room(config_of(SMALL), 11, 5, cpu)
    with pytest.raises(
        StudentError, match=r"a student of 1,\d+,\d+,\d+,\d+ weights needs .* lower model_dim"
    ) as told:
        require_room(config_of(HUGE), 11, 5, cpu)
    assert "\n" not in str(told.value)


def test_a_model_file_whose_config_asks_for_more_is_refused_before_it_is_made(tmp_path: Path) -> None:
    """An exported model.toml, a run's config and a checkpoint are one: settings beside weights."""
    checkpoint = checkpoint_of_student(tmp_path)
    weights, small = inference_state(dict(checkpoint.model)), checkpoint.config.conformer
    inference_model(checkpoint.config, weights, checkpoint.units_model, "a.pt")
    for change in (
        {"num_layers": 256, "model_dim": 16_384, "num_heads": 2, "feed_forward_dim": 65_536},
        {"subsampling_channels": 4096},
        {"num_layers": small.num_layers + 1},
    ):
        config = replace(checkpoint.config, conformer=replace(small, **change))
        with pytest.raises(
            StudentError, match="a.pt: weights do not fit their config .* train the model"
        ) as told:
            inference_model(config, weights, checkpoint.units_model, "a.pt")
        assert "\n" not in str(told.value)


def test_gradients_and_moments_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sum(shape.numel() for shape in shapes_of(config_of(SMALL), 11, 5).values())
    for there, is_enough in (
        (TRAINED_WEIGHT_BYTES * weights, True),
        (TRAINED_WEIGHT_BYTES * weights - 1, False),
    ):
        monkeypatch.setattr("student.model.size.machine_bytes", lambda there=there: there)
        if is_enough:
            require_room(config_of(SMALL), 11, 5, torch.device("cpu"))
            continue
        with pytest.raises(StudentError, match="needs .* on cpu"):
            require_room(config_of(SMALL), 11, 5, torch.device("cpu"))
    assert machine_bytes() > 1 << 28


def test_to_count_loads_nothing_of_pytorch_that_training_does_without() -> None:
    code = (
        "import sys\nfrom student.config import StudentConfig\nfrom student.model.size import shapes_of\n"
        "before = set(sys.modules)\nshapes_of(StudentConfig(), 9, 9)\nprint(len(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20
