"""A config file is read strictly: what it does not say is a default, what nobody knows is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import CONFIG_FOLDER, as_tables, load_config
from pipeline.errors import PipelineError
from teacher_cache.common.differences import differences

SHIPPED = sorted(path.stem for path in CONFIG_FOLDER.glob("*.toml"))
MINIMAL = (
    '[data]\ncorpus = "speech"\n[data.splits]\ntrain = { folders = ["train"] }\n[teacher]\nmodel = "bert"\n'
)


def write(folder: Path, text: str, name: str = "own.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_loads_and_its_id_lists_exist(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    for split in config.data.splits.values():
        assert not split.ids or (config.folder / split.ids).is_file()


def test_three_lines_over_a_base_change_only_what_they_say(tmp_path: Path) -> None:
    own = load_config(write(tmp_path, 'base = "librispeech-100"\n[teacher]\nmodel = "my-bert"\n'))
    found = differences(as_tables(load_config("librispeech-100")), as_tables(own))
    assert found == {"teacher.model": ("google-bert/bert-base-uncased", "my-bert")}


def test_id_lists_of_a_base_lie_beside_the_base_and_own_ones_beside_the_own_file(tmp_path: Path) -> None:
    text = 'base = "librispeech-mini"\n[data]\ncorpus = "own"\n'
    config = load_config(write(tmp_path, text), ['data.unit_model_type="bpe"'])
    assert {name for name, split in config.data.splits.items() if split.ids} == {"train", "dev", "heldout"}
    for split in config.data.splits.values():
        assert (config.folder / split.ids).is_file()
    own = (
        text + '[data.splits]\ntrain = { ids = "librispeech-mini.train.txt" }\n[build]\nsplits = ["train"]\n'
    )
    assert load_config(write(tmp_path, own)).folder == tmp_path


def test_the_mini_corpus_shares_no_speaker_between_its_splits() -> None:
    config = load_config("librispeech-mini")
    speakers: dict[str, set[str]] = {}
    for name, split in config.data.splits.items():
        lines = (config.folder / split.ids).read_text(encoding="utf-8").split()
        assert len(lines) == len(set(lines))
        speakers[name] = {line.split("-")[0] for line in lines}
    assert speakers["heldout"] == {"332", "3947", "7312", "7859"}
    assert [len(speakers[name]) for name in ("train", "dev")] == [247, 20]
    assert not speakers["train"] & (speakers["heldout"] | speakers["dev"])
    assert set(config.build.splits) == set(config.data.splits)


def test_splits_of_a_config_replace_those_of_its_base_whole(tmp_path: Path) -> None:
    text = 'base = "librispeech-100"\n[data]\ncorpus = "own"\n[data.splits]\ntrain = { folders = ["a"] }\n'
    assert list(load_config(write(tmp_path, text)).data.splits) == ["train"]


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (MINIMAL + "[objectiv]\n", "did you mean 'objective'"),
        (MINIMAL + "[trainer]\nlearning_rat = 1.0\n", "did you mean 'learning_rate'"),
        (MINIMAL + '[trainer]\nmax_steps = "many"\n', "trainer.max_steps = 'many' is not of type int"),
        (MINIMAL + "[trainer]\nmax_steps = true\n", "is not of type int"),
        (MINIMAL + "[conformer]\nconv_kernel_frames = 4\n", "conv_kernel_frames 4 must be odd"),
        (MINIMAL + "[cache]\ntemperatures = [2.0]\n", "must be positive and hold 1.0"),
        ("[data]\n", "are missing"),
        ("not toml", "not valid TOML"),
    ],
)
def test_a_wrong_config_is_told_in_one_line(tmp_path: Path, text: str, reported: str) -> None:
    with pytest.raises(PipelineError, match=None) as caught:
        load_config(write(tmp_path, text))
    assert reported in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_of_a_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 'base = "librispeech-100"\n', "middle.toml")
    with pytest.raises(PipelineError, match="one level"):
        load_config(write(tmp_path, 'base = "middle.toml"\n'))


def test_overrides_are_typed_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    config = load_config(path, ["trainer.max_steps=7", "conformer.taps=[1, 2]", "trainer.device=cpu"])
    assert config.student.trainer.max_steps == 7
    assert config.student.conformer.taps == (1, 2)
    assert config.student.trainer.device == "cpu"
    with pytest.raises(PipelineError, match=r"trainer\.max_step"):
        load_config(path, ["trainer.max_step=7"])
    with pytest.raises(PipelineError, match=r"section\.key=value"):
        load_config(path, ["max_steps=7"])
