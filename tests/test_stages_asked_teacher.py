"""A config's teacher is known by its files or its recipe, never by a name: before a build or a training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic_cache import make, passages_named, plan_of

from pipeline.cli import main
from pipeline.config import ExperimentConfig, load_config
from pipeline.errors import PipelineError
from pipeline.paths import Roots, prepared_folder
from pipeline.stages.asked_teacher import (
    asked_sha256,
    asked_teacher_folder,
    refuse_another_teacher,
    training_request,
)
from student.data.manifest import Utterance, write_manifest
from teacher_cache.errors import CacheError
from teacher_cache.store import read_manifest, write_name
from teacher_cache.store.manifest import Manifest
from teacher_cache.teacher.folder import read_note
from teacher_cache.teacher.identity import TEACHER_NOTE, hashed_files, identify_teacher
from teacher_cache.teacher_training.request import training_recipe

DATA = """
[data]
corpus = "tones"
[data.splits]
train = { folders = ["train"] }
[cache]
top_k = 24
temperatures = [1.0]
[build]
splits = ["train"]
"""
TRAINED = '[teacher]\nname = "own"\n[teacher_training]\ntext = ["books.txt"]\nvocabulary = "words"\n'
TEXTS = ("a red rose", "now i see")


class Place:
    """Roots, a prepared split and the text of a training below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots = Roots(**{name: folder / name for name in ("data", "cache", "runs", "scratch")})
        self.roots.data.mkdir()
        (self.roots.data / "books.txt").write_text("much text\n")

    def config(self, teacher: str) -> ExperimentConfig:
        (self.folder / "tones.toml").write_text(DATA + teacher)
        config = load_config(str(self.folder / "tones.toml"))
        manifest = prepared_folder(config, self.roots) / "train.jsonl"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(
            manifest,
            [
                Utterance(id=f"u{n}", audio=f"{n}.flac", text=text, seconds=1.0, chapter="c", position=n)
                for n, text in enumerate(TEXTS)
            ],
        )
        return config

    def teacher(self, path: Path, weights: str = "weights", **note: object) -> Path:
        """A folder with the files of a teacher, and with a note where one is given."""
        path.mkdir(parents=True)
        (path / "config.json").write_text('{"vocab_size": 90, "max_position_embeddings": 64}')
        (path / "model.safetensors").write_text(weights)
        if note:
            vouched = {"files_sha256": hashed_files(path)}
            (path / TEACHER_NOTE).write_text(json.dumps({"name": path.name, **vouched, **note}))
        return path

    def trained(self, config: ExperimentConfig, weights: str = "weights") -> Path:
        """The teacher that the config's training would have left, without the hours."""
        recipe = training_recipe(training_request(config, self.roots))
        path = self.roots.runs / "teachers" / config.teacher.name
        return self.teacher(
            path, weights, recipe=recipe, model=config.teacher.model, normaliser={"version": 1}
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def manifest_of(teacher: Path, asked: str) -> Manifest:
    """What a build with this teacher says of itself; asked : digest of what its config said, "" in 0.1."""
    manifest = plan_of(passages_named(3)).manifest
    return replace(manifest, teacher=replace(identify_teacher(teacher), request_sha256=asked))


def of_version_0_1(manifest: Manifest) -> Manifest:
    teacher = replace(manifest.teacher, request_sha256="", training={}, requested_revision="")
    return replace(manifest, teacher=teacher)


OTHERWISE = {
    "settings": TRAINED + "max_steps = 7\n",
    "base model": TRAINED.replace('name = "own"', 'name = "own"\nmodel = "some/model"'),
    "base model that is nowhere": TRAINED.replace('name = "own"', 'name = "own"\nmodel = "/no/such/folder"'),
    "no training": '[teacher]\nname = "own"\nmodel = "some/model"\n',
    "no training, the same folder's name": '[teacher]\nname = "own"\nmodel = "elsewhere/own"\n',
}


@pytest.mark.parametrize("asked", OTHERWISE)
def test_a_build_takes_no_folder_for_its_name(place: Place, asked: str) -> None:
    folder = place.trained(place.config(TRAINED))
    assert asked_teacher_folder(place.config(TRAINED), place.roots) == folder
    with pytest.raises((PipelineError, CacheError)) as told:
        asked_teacher_folder(place.config(OTHERWISE[asked]), place.roots)
    assert "\n" not in str(told.value) and str(folder) in str(told.value)


def test_a_build_compares_the_texts_that_are_here(place: Place) -> None:
    config = place.config(TRAINED)
    folder = place.trained(config)
    (place.roots.data / "books.txt").write_text("other text\n")
    with pytest.raises(PipelineError, match="text_sha256"):
        asked_teacher_folder(config, place.roots)
    (place.roots.data / "books.txt").unlink()
    assert asked_teacher_folder(config, place.roots) == folder
    manifest = prepared_folder(config, place.roots) / "train.jsonl"
    manifest.write_text(manifest.read_text().replace("rose", "nose"))
    with pytest.raises(PipelineError, match="transcripts_sha256"):
        asked_teacher_folder(config, place.roots)


def test_a_note_does_not_vouch_for_other_files(place: Place) -> None:
    folder = place.trained(place.config(TRAINED))
    (folder / "model.safetensors").write_text("others")
    with pytest.raises(CacheError, match=r"model\.safetensors changed since bert2ctc_teacher\.json"):
        identify_teacher(folder)


def test_a_teacher_of_version_0_1_is_still_one(place: Place) -> None:
    config = place.config(TRAINED)
    folder = place.trained(config)
    note = read_note(folder)
    assert note is not None
    del note["files_sha256"]
    (folder / TEACHER_NOTE).write_text(json.dumps(note))
    assert asked_teacher_folder(config, place.roots) == folder
    assert identify_teacher(folder).training == note["recipe"]


@pytest.mark.parametrize("asked", OTHERWISE)
@pytest.mark.parametrize("is_here", [True, False])
def test_a_training_follows_no_cache_of_another_teacher(place: Place, asked: str, is_here: bool) -> None:
    config = place.config(TRAINED)
    folder = place.trained(config)
    manifest = manifest_of(folder, asked_sha256(config))
    if not is_here:
        shutil.rmtree(folder)
    refuse_another_teacher(config, place.roots, manifest)
    other = place.config(OTHERWISE[asked])
    with pytest.raises(PipelineError, match="was labelled by teacher 'own'") as told:
        refuse_another_teacher(other, place.roots, manifest)
    assert "\n" not in str(told.value)
    if is_here:
        refuse_another_teacher(place.config(TRAINED), place.roots, of_version_0_1(manifest))
    for teacher in (
        OTHERWISE[asked],
        *([] if is_here else [TRAINED]),
    ):
        with pytest.raises(PipelineError, match="or name this cache with --cache"):
            refuse_another_teacher(place.config(teacher), place.roots, of_version_0_1(manifest))


def test_a_teacher_trained_again_by_the_same_recipe_is_another(place: Place) -> None:
    config = place.config(TRAINED)
    folder = place.trained(config)
    manifest = manifest_of(folder, asked_sha256(config))
    shutil.rmtree(folder)
    place.trained(config, weights="of another machine")
    with pytest.raises(PipelineError, match=r"has other model\.safetensors"):
        refuse_another_teacher(config, place.roots, manifest)


def test_a_local_folder_is_its_files_wherever_it_lies(place: Place) -> None:
    one, other = (
        place.teacher(place.folder / "a" / "bert"),
        place.teacher(place.folder / "b" / "bert", "others"),
    )
    asks_one, asks_other = (f'[teacher]\nmodel = "{path}"\n' for path in (one, other))
    manifest = manifest_of(one, asked_sha256(place.config(asks_one)))
    moved = shutil.copytree(one, place.folder / "c" / "anything")
    for known in (manifest, of_version_0_1(manifest)):
        refuse_another_teacher(place.config(asks_one), place.roots, known)
        refuse_another_teacher(place.config(f'[teacher]\nmodel = "{moved}"\n'), place.roots, known)
        with pytest.raises(PipelineError, match=r"has other model\.safetensors"):
            refuse_another_teacher(place.config(asks_other), place.roots, known)
    shutil.rmtree(one)
    shutil.rmtree(other)
    refuse_another_teacher(place.config(asks_one), place.roots, manifest)
    with pytest.raises(PipelineError, match="another one was asked for"):
        refuse_another_teacher(place.config(asks_other), place.roots, manifest)
    for asked in (asks_one, asks_other):  # both are called bert
        with pytest.raises(PipelineError, match="keeps a name of its teacher and no more.* --cache"):
            refuse_another_teacher(place.config(asked), place.roots, of_version_0_1(manifest))


@pytest.mark.parametrize("is_here", [True, False])
def test_a_hub_model_is_its_name_and_revision_and_needs_no_network(place: Place, is_here: bool) -> None:
    folder = place.teacher(
        place.roots.runs / "teachers" / "maker--small",
        model="maker/small",
        requested_revision="v1",
        revision="c" * 40,
    )
    asks = '[teacher]\nmodel = "maker/small"\nrevision = "v1"\n'
    manifest = manifest_of(folder, asked_sha256(place.config(asks)))
    if not is_here:
        shutil.rmtree(folder)
    for known in (manifest, of_version_0_1(manifest)):
        refuse_another_teacher(place.config(asks), place.roots, known)
        refuse_another_teacher(place.config(asks.replace("v1", "c" * 40)), place.roots, known)
        for model, revision in (("maker/large", "v1"), ("maker/small", "d" * 40)):
            other = f'[teacher]\nmodel = "{model}"\nrevision = "{revision}"\n'
            with pytest.raises(PipelineError, match="was labelled by"):
                refuse_another_teacher(place.config(other), place.roots, known)
    with pytest.raises(
        PipelineError, match="revision 'v1', not 'v2'|labelled it, is not what the config asks for"
    ):
        refuse_another_teacher(place.config(asks.replace("v1", "v2")), place.roots, manifest)


def test_what_was_trained_on_from_a_model_is_not_that_model(place: Place) -> None:
    adapted = place.config(TRAINED.replace('name = "own"', 'name = "own"\nmodel = "maker/small"'))
    folder = place.trained(adapted)
    manifest = manifest_of(folder, asked_sha256(adapted))
    shutil.rmtree(folder)
    for known in (manifest, of_version_0_1(manifest)):
        with pytest.raises(PipelineError, match="trained on from 'maker/small'"):
            refuse_another_teacher(place.config('[teacher]\nmodel = "maker/small"\n'), place.roots, known)


def test_what_a_config_asks_for_is_no_name(place: Place) -> None:
    def asked(teacher: str) -> str:
        return asked_sha256(place.config(teacher))

    renamed = TRAINED.replace('"own"', '"other"')
    assert asked(renamed) == asked(TRAINED) == asked(TRAINED + "save_every_steps = 9\n")
    assert len({asked(TRAINED), *(asked(teacher) for teacher in OTHERWISE.values())}) == 5 + 1


def test_both_commands_refuse_before_any_work(place: Place) -> None:
    config = place.config(TRAINED)
    folder = place.trained(config)
    plan = plan_of(passages_named(3))
    cache = make(place.roots.cache, plan)
    write_name(place.roots.cache, "tones", cache.name)
    options = [
        part for name in ("data", "cache", "runs") for part in (f"--{name}-root", str(place.folder / name))
    ]
    before = sorted(place.folder.rglob("*"))
    path = str(place.folder / "tones.toml")
    place.config(OTHERWISE["settings"])
    for command in (["cache", "build", path], ["cache", "build", path, "--dry-run"], ["train", path]):
        done = CliRunner().invoke(main, [*command, *options])
        assert done.exit_code == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "max_steps: 10000 -> 7" in done.stderr or "labelled by teacher 'synthetic'" in done.stderr
    assert [path for path in sorted(place.folder.rglob("*")) if path not in before] == []
    assert read_manifest(cache).teacher == dataclasses.replace(plan.manifest.teacher)
    assert folder.is_dir()
