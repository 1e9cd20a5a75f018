"""An exported model says what its run says, needs five packages, and holds nothing of the decoders."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fakes import SAMPLE_RATE_HZ, tones
from safetensors.torch import load_file
from test_training_checkpoint import checkpoint_of_student
from tiny_run import DISTILLED, ctc_alone, tiny_job
from torchaudio.functional import resample

from student import load_model
from student.config import (
    AugmentationConfig,
    ConformerConfig,
    ObjectiveConfig,
    StudentConfig,
    TrainerConfig,
)
from student.data.manifest import read_manifest
from student.errors import StudentError
from student.inference.averaging import Average
from student.inference.config_toml import config_of, tables_of, toml_of
from student.inference.evaluation import recognise
from student.inference.export import export_model
from student.inference.recogniser import load_recogniser
from student.inference.transcription import transcribe
from student.training.checkpoint import save_checkpoint
from student.training.trainer import TrainingJob, train

NEEDED = {"torch", "torchaudio", "sentencepiece", "soundfile", "numpy"}
OWN = {"bert2ctc"}
STEPS = 50


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    """A distilled student that says something, right or wrong."""
    threads = torch.get_num_threads()
    job = tiny_job(tmp_path_factory.mktemp("trained"), num_train=60, num_dev=6)
    plain = ctc_alone(job, max_steps=STEPS, batch_seconds=20, micro_batch_seconds=20, warmup_steps=15)
    objective = replace(DISTILLED, ctc_weight=0.9)
    trainer = replace(plain.config.trainer, evaluate_every_steps=STEPS, checkpoint_every_steps=20)
    job = replace(job, config=replace(plain.config, objective=objective, trainer=trainer))
    train(job)
    yield job
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(trained: TrainingJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "deep" / "model"
    assert not export_model(trained.run_dir, folder).is_reused
    return folder


def test_an_exported_model_says_what_its_run_says(trained: TrainingJob, exported: Path) -> None:
    utterances = read_manifest(trained.train_manifest)[:10]
    run, model = load_recogniser(trained.run_dir, "cpu"), load_model(exported, "cpu")
    heard = recognise(run, utterances, trained.data_root)
    assert recognise(model, utterances, trained.data_root) == heard
    said = heard.by_layer("greedy")
    assert any(said[max(said)]), "a model that says nothing proves nothing"
    path = trained.data_root / utterances[0].audio
    assert model.transcribe(path) == model.transcribe(str(path)) == said[max(said)][0]
    assert transcribe(exported, [path], "cpu") == [(path, said[max(said)][0])]


def test_the_weights_are_the_run_s_bit_for_bit_and_none_is_a_decoder_s(
    trained: TrainingJob, exported: Path
) -> None:
    weights = load_file(exported / "model.safetensors")
    state = load_recogniser(trained.run_dir, "cpu").model.state_dict()
    assert weights.keys() == state.keys() and not [name for name in weights if "decoder" in name]
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights.items())
    assert {path.name for path in exported.iterdir()} == {"model.safetensors", "model.toml", "units.model"}
    assert (exported / "units.model").read_bytes() == trained.units_model.read_bytes()
    settings = tomllib.loads((exported / "model.toml").read_text(encoding="utf-8"))
    assert settings["step"] == STEPS and settings["versions"]["torch"]


def test_samples_are_heard_as_the_file_is(exported: Path, tmp_path: Path) -> None:
    model = load_model(exported, "cpu")
    samples = tones("the red flower", seed=3)
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE_HZ)
    pcm, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    said = model.transcribe(tmp_path / "a.wav")
    assert said
    assert model.transcribe(pcm) == model.transcribe(pcm.astype(np.float32) / 32768) == said
    assert model.transcribe(torch.from_numpy(pcm)) == said
    assert model.transcribe(np.stack([pcm, pcm], axis=1)) == said
    faster = resample(torch.from_numpy(samples), SAMPLE_RATE_HZ, 48_000)
    assert model.transcribe(faster, 48_000) == said


@pytest.mark.parametrize(
    ("samples", "reported"),
    [
        (np.zeros((2, 100), dtype=np.float32), "shape"),
        (np.full(1000, np.nan, dtype=np.float32), "NaN"),
        (np.zeros(0, dtype=np.float32), "no samples"),
        (np.zeros(SAMPLE_RATE_HZ * 121, dtype=np.int16), "120 s is the limit"),
    ],
)
def test_samples_that_are_no_speech_are_refused(exported: Path, samples: np.ndarray, reported: str) -> None:
    with pytest.raises(StudentError, match=reported):
        load_model(exported, "cpu").transcribe(samples)


def test_exporting_again_changes_nothing_and_another_model_is_never_overwritten(
    trained: TrainingJob, exported: Path, tmp_path: Path
) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in exported.iterdir()}
    assert export_model(trained.run_dir, exported).is_reused
    with pytest.raises(StudentError, match="holds something else"):
        export_model(trained.run_dir, exported, Average(count=2))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in exported.iterdir()} == before
    assert list(exported.parent.iterdir()) == [exported]
    (tmp_path / "empty").mkdir()
    assert not export_model(trained.run_dir, tmp_path / "empty").is_reused


def test_a_disk_that_refuses_leaves_nothing_behind(trained: TrainingJob, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StudentError, match="cannot be written"):
        export_model(trained.run_dir, tmp_path / "file" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["model.safetensors", "units.model", "model.toml"])
def test_a_file_that_is_absent_or_another_s_is_refused(exported: Path, tmp_path: Path, name: str) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((exported / name).read_bytes())
    if name == "model.toml":
        content = bytearray(bytes(content).replace(b"model_dim = 64", b"model_dim = 32"))
    else:
        content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudentError, match=r"not what model.toml describes|do not fit") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    with pytest.raises(StudentError, match="export"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        StudentConfig(),
        StudentConfig(
            conformer=ConformerConfig(num_layers=3, taps=(), dropout=1e-5),
            objective=ObjectiveConfig(
                ctc_weight=1.0, distillation_weight=0.0, intermediate_ctc_weight=0.0, label_smoothing=1e-7
            ),
            augmentation=AugmentationConfig(speed_factors=(0.9, 1.0, 1.1)),
            trainer=TrainerConfig(initial_checkpoint='a "quoted" \\ path é'),
        ),
    ],
)
def test_a_config_survives_toml(config: StudentConfig) -> None:
    assert config_of(toml_of(tables_of(config), {"step": 3})) == (config, {"step": 3})


def test_control_characters_survive_toml_too() -> None:
    text = 'a "quoted" \\ path\n\x7fé'
    assert tomllib.loads(toml_of({"versions": {"torch": text}}, {})) == {"versions": {"torch": text}}


def test_a_key_of_another_version_is_refused() -> None:
    with pytest.raises(StudentError, match="export the run again"):
        config_of("[conformer]\nnum_wheels = 4\n")


def loaded_by(code: str) -> set[str]:
    """Distributions of the modules that a fresh interpreter holds after the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n', *sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    modules = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    owners = packages_distributions()
    return {owner.lower() for module in modules for owner in owners.get(module, [])}


@pytest.fixture(scope="module")
def allowed() -> set[str]:
    """The five, and what they load themselves."""
    return loaded_by(f"import {', '.join(sorted(NEEDED))}")


def test_a_model_is_used_with_five_packages_and_no_other(
    exported: Path, tmp_path: Path, allowed: set[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", tones("red ship"), SAMPLE_RATE_HZ)
    model = f"student.load_model({str(exported)!r})"
    loaded = loaded_by(f"import student; {model}.transcribe({str(tmp_path / 'a.wav')!r})")
    assert loaded >= NEEDED | OWN
    assert loaded - allowed == OWN


def test_the_probe_sees_a_package_too_many(allowed: set[str]) -> None:
    assert "safetensors" in loaded_by("import safetensors") - allowed
    assert "zarr" in loaded_by("import teacher_cache.store") - allowed


def test_importing_the_student_loads_nothing_heavy() -> None:
    assert not loaded_by("import student; student.load_model") & NEEDED


def test_weights_that_are_not_finite_are_never_exported(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "final.pt", checkpoint_of_student(tmp_path))
    content = torch.load(tmp_path / "final.pt", weights_only=True)
    content["model"]["ctc_head.weight"][0, 0] = float("nan")  # as another program may have left it
    torch.save(content, tmp_path / "final.pt")
    with pytest.raises(StudentError, match=r"not exported: ctc_head\.weight holds NaN or infinity"):
        export_model(tmp_path / "final.pt", tmp_path / "model")
    assert not (tmp_path / "model").exists()
