"""From language models to tuned decoders and their results; what does not belong together is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import decode_speed
import pytest
import torch
from click.testing import CliRunner
from tiny_run import ctc_alone, tiny_job
from toy_arpa import write_arpa

from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.paths import Roots
from pipeline.stages.evaluate import evaluate_run
from pipeline.stages.tune import tune_run
from student.data.manifest import read_manifest
from student.data.units import Units
from student.errors import StudentError
from student.inference.recogniser import Recogniser
from student.model.outputs import StudentOutput
from student.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a student that gets some words right, recorded, and n-grams of its words and units."""
    threads = torch.get_num_threads()
    path = tmp_path_factory.mktemp("tuned")
    job = tiny_job(path, num_train=60, num_dev=8)
    job = ctc_alone(job, max_steps=40, batch_seconds=20, micro_batch_seconds=20, warmup_steps=15)
    train(job)
    record = {"prepared": str(path), "config": {"data": {"splits": {"train": {}, "dev": {}}}}}
    (job.run_dir / "run.json").write_text(json.dumps(record), encoding="utf-8")
    texts = [utterance.text for utterance in read_manifest(job.train_manifest)]
    units = Units.from_file(path / "units.model")
    write_arpa(path / "words.arpa", [text.split() for text in texts])
    write_arpa(path / "units.arpa", [[units.pieces[unit] for unit in units.encode(text)] for text in texts])
    yield path
    torch.set_num_threads(threads)


def roots_of(folder: Path) -> Roots:
    return Roots(data=folder / "data", cache=folder, runs=folder, scratch=folder)


def test_weights_are_stored_with_all_that_was_tried_and_evaluate_uses_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, roots = folder / "run", roots_of(folder)
    with pytest.raises(StudentError, match="no weights for the decoder words.*bert2ctc tune RUN"):
        evaluate_run(run, roots, ["dev"], "cpu", decoders=["words"])
    report = tune_run(
        run,
        roots,
        beam_ngram=folder / "units.arpa",
        words=folder / "words.arpa",
        beam={"beam_ngram": 8, "words": 8},
        utterances=6,
        device="cpu",
    )
    for decoder in ("beam_ngram", "words"):
        stored = json.loads((run / "tuning" / f"{decoder}.json").read_text(encoding="utf-8"))
        found = report.result["tunings"][decoder]
        assert stored["wer"] == found["wer"] == min(trial["wer"] for trial in stored["trials"])
        assert stored["wer"] <= stored["greedy_wer"] and stored["utterances"] == 6
        assert stored["settings"]["beam"] == 8
        chosen = {name: stored["weights"][name] for name in ("language", "insertion", "prior")}
        assert any(chosen.items() <= trial.items() for trial in stored["trials"])
        capsys.readouterr()
        result = evaluate_run(run, roots, ["dev"], "cpu", decoders=[decoder]).result["splits"]["dev"]
        assert f"{decoder}: language {chosen['language']:g}" in capsys.readouterr().err
        assert result["speed"]["decoder"] == decoder and result["speed"]["decoder_seconds"] > 0
        written = json.loads((run / "evaluation" / decoder / "dev.json").read_text(encoding="utf-8"))
        assert written["wer"] == result["wer"]
    assert evaluate_run(run, roots, ["dev"], "cpu", decoders=["beam"]).result["splits"]["dev"]["wer"] >= 0


def test_decoders_that_share_the_encoder_s_pass_find_what_each_finds_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, roots, label = folder / "run", roots_of(folder), "together"
    models = {"beam_ngram": folder / "units.arpa", "words": folder / "words.arpa"}
    few = {"utterances": 2, "beam": {"beam_ngram": 4}, "label": label, "device": "cpu", "reuse": True}
    assert not tune_run(run, roots, **models, **few).result["is_reused"]  # type: ignore[arg-type]
    passes, own = [0], Recogniser.forward

    def counted(recogniser: Recogniser, *arguments: torch.Tensor) -> StudentOutput:
        passes[0] += 1
        return own(recogniser, *arguments)

    monkeypatch.setattr(Recogniser, "forward", counted)

    def evaluated(*decoders: str, reuse: bool = False) -> tuple[dict[str, Any], int]:
        passes[0] = 0
        report = evaluate_run(run, roots, ["dev"], "cpu", decoders=decoders, label=label, reuse=reuse)
        return dict(report.result), passes[0]

    alone = {name: evaluated(name) for name in ("greedy", "words", "beam_ngram")}
    texts = {name: heard_by(run, f"{name}-{label}") for name in alone}
    together, once = evaluated(*alone)
    assert once == alone["greedy"][1] and not together["is_reused"]
    for name, (result, _) in alone.items():
        assert untimed(together["rows"][f"{name}-{label}"]) == untimed(result["splits"])
        assert heard_by(run, f"{name}-{label}") == texts[name]
    again, none = evaluated(*alone, reuse=True)
    assert none == 0 and again["is_reused"] and again["rows"] == together["rows"]
    assert tune_run(run, roots, **models, **few).result["is_reused"]  # type: ignore[arg-type]
    assert not tune_run(run, roots, **models, **few | {"beam": {"words": 7}}).result["is_reused"]  # type: ignore[arg-type]
    changed, once = evaluated(*alone, reuse=True)
    assert once > 0 and not changed["is_reused"], "other weights are other results"
    assert changed["rows"][f"greedy-{label}"] == again["rows"][f"greedy-{label}"]


def heard_by(run: Path, row: str) -> str:
    return (run / "evaluation" / row / "dev.hyp.trn").read_text(encoding="utf-8")


def untimed(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        split: {key: value for key, value in scores.items() if key != "speed"}
        for split, scores in splits.items()
    }


@pytest.mark.parametrize("beam", ["few", "greedy=3", "words=", "=-1"])
def test_a_beam_is_a_number_or_a_decoder_s(beam: str) -> None:
    refused = CliRunner().invoke(main, ["tune", "run", "--words", "a.arpa", "--beam", beam])
    assert refused.exit_code == 2 and "is neither N nor one of beam_ngram, beam_lm, words" in refused.output


def test_what_does_not_belong_together_is_refused_before_anything_is_heard(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, roots = folder / "run", roots_of(folder)
    monkeypatch.setattr(Recogniser, "forward", lambda *_: pytest.fail("dev was heard"))
    (tmp_path / "broken.arpa").write_text("\\data\\\nngram 1=2\n", encoding="utf-8")
    (tmp_path / "lexicon.txt").write_text("the t h é\n", encoding="utf-8")
    (tmp_path / "none.txt").write_text("unheard\n", encoding="utf-8")
    words = folder / "words.arpa"
    for options, reason in (
        ({}, "nothing to tune"),
        ({"words": tmp_path / "broken.arpa"}, "broken.arpa"),
        ({"beam_ngram": words}, "words.arpa|word|unit"),
        ({"words": words, "lexicon": tmp_path / "lexicon.txt"}, "line 1 spells 'the' with 'é'"),
        ({"words": words, "lexicon": tmp_path / "none.txt"}, "none of its 1 words"),
        ({"words": words, "label": "a/b"}, "label 'a/b'"),
    ):
        with pytest.raises((PipelineError, StudentError), match=reason):
            tune_run(run, roots, utterances=1, device="cpu", **options)  # type: ignore[arg-type]


def test_weights_of_another_run_and_another_language_model_are_refused(folder: Path, tmp_path: Path) -> None:
    run, roots = folder / "run", roots_of(folder)
    tune_run(run, roots, words=folder / "words.arpa", utterances=2, label="own", device="cpu")
    (tmp_path / "tuning").mkdir()
    other = folder / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns(".lock"))
    stored = json.loads((other / "tuning" / "words-own.json").read_text(encoding="utf-8"))
    (other / "tuning" / "words-own.json").write_text(json.dumps(stored | {"model": "0" * 64}))
    with pytest.raises(StudentError, match="weights of another student.*bert2ctc tune RUN"):
        evaluate_run(other, roots, ["dev"], "cpu", decoders=["words"], label="own")
    another = write_arpa(tmp_path / "another.arpa", [["the", "old", "ship"]])
    with pytest.raises(StudentError, match="another.arpa: language model .* was tuned with"):
        evaluate_run(run, roots, ["dev"], "cpu", decoders=["words"], label="own", language_model=another)


def test_the_benchmark_times_every_decoder_that_the_run_has(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder / "run")
    tune_run(Path(run), roots_of(folder), words=folder / "words.arpa", utterances=1, device="cpu")
    options = ["--utterances", "3", "--batch", "2", "--rounds", "2", "--data", str(folder / "data")]
    written = tmp_path / "figures.json"
    decode_speed.main([run, "--against", run, *options, "--json", str(written)], standalone_mode=False)
    figures = json.loads(written.read_text(encoding="utf-8"))
    for way in ("alone", "batched"):
        assert {"greedy", "greedy of --against", "beam", "words"} <= figures[way].keys()
        assert "beam_lm" not in figures[way]
        for row in figures[way].values():
            assert 0 < row["own_decoder_real_time_factor"] < row["own_real_time_factor"]
            assert 0 < row["latency_ms"] <= row["latency_95_percent_ms"]
        ratio = figures["ratio"][way]
        assert 0 < ratio["lowest"] <= ratio["median"] <= ratio["highest"] and len(ratio["all"]) == 2
    assert figures["threads"] == 1 and figures["utterances"] == 3
    captured = capsys.readouterr()
    assert "beam_lm: left out" in captured.err and "times as long" in captured.out
