"""Students that hear through a pretrained encoder: its own frames, found by the samples, free of padding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pretrained_ear
import pytest
import torch

from pipeline import processes
from student.config import ConformerConfig, FeatureConfig
from student.frames import frames_after_convolutions


def test_frames_are_whispers_own_over_all_of_its_positions() -> None:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(1)
    config = WhisperConfig(
        d_model=64, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=64, vocab_size=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    encoder, log_mel = WhisperModel(config).eval().encoder, WhisperFeatureExtractor()
    samples = (0.1 * np.random.default_rng(1).standard_normal(pretrained_ear.LONGEST_SAMPLES)).astype(
        np.float32
    )
    frames = pretrained_ear.encoded(encoder, log_mel, samples)
    with torch.inference_mode():
        features = log_mel(samples, sampling_rate=16_000, return_tensors="pt").input_features
        expected = encoder(features).last_hidden_state[0]
    torch.testing.assert_close(frames, expected, atol=0.05, rtol=0.05)  # bfloat16
    begun = pretrained_ear.encoded(encoder, log_mel, samples[:32_001])
    assert len(begun) == 101  # 20 ms each, the last one begun


@pytest.fixture
def heard(tmp_path: Path) -> tuple[torch.nn.Module, list[torch.Tensor]]:
    """Stored features of two utterances, and the utterances."""
    random = np.random.default_rng(2)
    lengths, index, written = (8_000, 4_800), {}, 0
    spoken = [random.integers(-3000, 3000, length).astype(np.int16) for length in lengths]
    stored = random.standard_normal((sum(lengths) // 320, pretrained_ear.WIDTH)).astype(np.float16)
    for samples in spoken:
        index[pretrained_ear.key_of(samples)] = (written, len(samples) // 320)
        written += len(samples) // 320
    (tmp_path / pretrained_ear.FRAMES).write_bytes(stored.tobytes())
    (tmp_path / pretrained_ear.INDEX).write_text(json.dumps(index))
    features = pretrained_ear.StoredFeatures(tmp_path, FeatureConfig(mel_bins=pretrained_ear.WIDTH // 2))
    return features, [torch.from_numpy(samples / np.float32(32768)) for samples in spoken]


def test_an_utterance_is_found_by_its_samples_whatever_is_beside_it(
    heard: tuple[torch.nn.Module, list[torch.Tensor]],
) -> None:
    features, (long, short) = heard
    batch = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
    both, lengths = features(batch, torch.tensor([len(long), len(short)]))
    alone, (length,) = features(short.unsqueeze(0), torch.tensor([len(short)]))
    torch.testing.assert_close(both[1, : int(length)], alone[0])
    assert not both[1, int(lengths[1]) :].any()
    with pytest.raises(KeyError):
        features(torch.flip(long, (0,)).unsqueeze(0), torch.tensor([len(long)]))


def test_normalised_frames_have_mean_zero(heard: tuple[torch.nn.Module, list[torch.Tensor]]) -> None:
    features, utterances = heard
    batches = [(one.unsqueeze(0), torch.tensor([len(one)])) for one in utterances]
    features.fit(batches)
    frames = torch.cat([features(*batch)[0][0] for batch in batches])
    torch.testing.assert_close(frames.mean(0), torch.zeros(frames.shape[1]), atol=1e-4, rtol=0)


def test_a_stack_has_the_convolutions_lengths_and_no_frame_of_the_padding() -> None:
    config = ConformerConfig(dropout=0.0)
    stack = pretrained_ear.Stack(config, 16).eval()
    for num_frames in (7, 50, 51, 52, 53):
        features = torch.randn(1, num_frames, 16)
        padded = torch.nn.functional.pad(features, (0, 0, 0, 9), value=5.0)
        num_stacked = frames_after_convolutions(num_frames, config.subsampling)
        assert stack(features).shape == (1, num_stacked, config.model_dim)
        torch.testing.assert_close(stack(padded)[:, :num_stacked], stack(features))


def test_commands_of_a_chain_and_ranks_hear_by_the_store_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks: list[list[str]] = []
    for module, name in (
        (pretrained_ear.model_room, "LogMel"), (pretrained_ear.conformer_room, "Subsampling"),
        (processes, "program_of"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    monkeypatch.setattr(
        processes, "launch_ranks", lambda given, num, program: ranks.append([*program, *given])
    )
    pretrained_ear.install(tmp_path)
    processes.launch_ranks(["train", "mine.toml"], 2)
    (rank,) = ranks
    assert rank[1:] == [
        pretrained_ear.__file__,
        "student",
        "--store",
        str(tmp_path),
        "--",
        "train",
        "mine.toml",
    ]
    assert processes.program_of(["train", "mine.toml"]) == [*rank, "--json"]
