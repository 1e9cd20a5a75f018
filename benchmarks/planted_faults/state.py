"""The sound state that faults are planted in, made by the real commands: corpus, teachers, caches, a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile
from fakes import SAMPLE_RATE_HZ, WORDS, sentences, tiny_bert, tones, write_corpus
from forgery import as_version_0_1

ROOT = Path(__file__).parents[2]
NUM_TRAIN, NUM_DEV = 620, 12  # so many that their rows are three shards
TABLES = """
[data]
corpus = "tones"
unit_vocabulary_size = 40
max_characters_per_second = 100.0
min_seconds = 0.01
[data.splits]
train = { folders = ["train"] }
dev = { folders = ["dev"] }
[teacher]
model = "bert"
[cache]
top_k = 24
[build]
workers = 1
rows_per_shard = 1024
[conformer]
num_layers = 2
model_dim = 16
num_heads = 2
feed_forward_dim = 32
conv_kernel_frames = 5
subsampling_channels = 4
taps = [1]
dropout = 0.0
[decoder]
num_layers = 1
num_heads = 2
feed_forward_dim = 32
min_count = 1
[objective]
top_k = 8
[trainer]
max_steps = 4
batch_seconds = 20.0
micro_batch_seconds = 20.0
warmup_steps = 2
checkpoint_every_steps = 2
evaluate_every_steps = 2
device = "cpu"
precision = "float32"
threads = 1
"""
ONE_STEP = ("--set", "trainer.max_steps=1")
# Whose words are a folder's: what a copied record still says of the folder that it was copied from
_NAMED_IN = ("*.json", "*.toml")


def run_command(
    folder: Path, arguments: Sequence[str], limit_seconds: float = 600
) -> subprocess.CompletedProcess[bytes]:
    """What `bert2ctc` with these arguments leaves, in a process of its own that stands in `folder`."""
    return subprocess.run(
        command_line(arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=limit_seconds,
    )


def command_line(arguments: Sequence[str], quick_to_signals: bool = False) -> list[str]:
    """The command of this checkout with this Python.

    quick_to_signals : by way of bin/bert2ctc, which holds signals back while Python starts
    """
    if quick_to_signals:
        return [str(ROOT / "bin/bert2ctc"), *arguments]
    return [sys.executable, "-P", "-m", "pipeline", *arguments]


def environment() -> dict[str, str]:
    """This process' own, without roots: those lie below the folder where a command stands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BERT2CTC_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])  # bin/bert2ctc asks it
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "no_proxy": "*"}
    return kept | own | {"PATH": path}


def make_state(folder: Path) -> Path:
    """Everything that a case may need, below `folder`; about a minute on one core.

    caches/, old/, other/ : roots of a cache, of the same as version 0.1 left it, of one over other texts
    runs/tones, runs/again : trained alike     exported/, tones.pack : of them     bert/, bert2/ : teachers
    """
    folder.mkdir(parents=True)
    words = [word for word in WORDS if len(word) > 2]  # shorter ones alone have more units than frames
    texts = sentences(NUM_TRAIN + NUM_DEV, seed=1, words=words, max_words=6)
    write_corpus(folder / "data/tones", texts[:NUM_TRAIN], folder="train")
    write_corpus(folder / "data/tones", texts[NUM_TRAIN:], folder="dev", first_speaker=900)
    few = sentences(8, seed=3, words=words, max_words=6)
    write_corpus(folder / "data/few", few, folder="train")
    soundfile.write(folder / "said.wav", tones("red ship sails"), SAMPLE_RATE_HZ)
    tiny_bert(folder / "bert")
    tiny_bert(folder / "bert2", seed=1)
    (folder / "tones.toml").write_text(TABLES)
    few_tables = TABLES.replace('"tones"', '"few"').replace('dev = { folders = ["dev"] }\n', "")
    (folder / "few.toml").write_text(few_tables)
    for command in (
        "data prepare tones.toml",
        "cache build tones.toml",
        "data prepare few.toml",
        "cache build few.toml --cache-root other",
        "train tones.toml",
        "train tones.toml --run-dir runs/again --set trainer.warmup_steps=3",
        "evaluate tones",
        "export tones exported",
        "cache pack tones tones.pack",
    ):
        done = run_command(folder, command.split())
        if done.returncode:
            raise SystemExit(f"the sound state cannot be made: {command}: {done.stderr.decode()}")
    published = cache_of(folder)
    old = shutil.copytree(published, folder / "old" / published.name)
    as_version_0_1(old)
    shutil.copytree(folder / "caches/names", folder / "old/names")
    return folder


def copy_state(sound: Path, folder: Path) -> Path:
    """The same state elsewhere; the corpus is shared, nobody writes there."""
    shutil.copytree(sound, folder, symlinks=True, ignore=lambda path, _: ["data"] * (Path(path) == sound))
    (folder / "data").symlink_to(sound / "data")
    for pattern in _NAMED_IN:
        for path in (folder / "runs").rglob(pattern):
            content = path.read_text()
            if str(sound) in content:
                path.write_text(content.replace(str(sound), str(folder)))
    return folder


def own_data(folder: Path) -> Path:
    """The corpus as this copy's own, where a case changes it."""
    shared = (folder / "data").resolve()
    (folder / "data").unlink()
    return shutil.copytree(shared, folder / "data")


def cache_of(folder: Path, root: str = "caches") -> Path:
    """The one published cache below a root of the state."""
    (path,) = (path for path in (folder / root).iterdir() if len(path.name) == 32)
    return path


def prepared_of(folder: Path, corpus: str = "tones") -> Path:
    """The one prepared folder of a corpus."""
    (path,) = (folder / "runs/prepared").glob(f"{corpus}-*")
    return path


def rewrite_json(path: Path, **entries: object) -> None:
    """The same JSON object with these entries replaced."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
