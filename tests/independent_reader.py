"""Reads a format 1 cache with numpy and zarr alone, as docs/cache_format.md says; nothing of ours."""

import json
from pathlib import Path

import numpy as np
import zarr


def read_cache(path):
    """manifest, pieces, special (V,) bool, and {digest: labels} with natural logs at temperature 1."""
    manifest = json.loads((Path(path) / "manifest.json").read_text("utf-8"))
    assert manifest["format_version"] == 1
    group = zarr.open_group(path, mode="r")
    row = {name: group[f"row/{name}"][:] for name in ("gold_id", "gold_logprob", "lognorm", "tail_logprob")}
    row["top_id"], steps = group["row/top_id"][:], group["row/top_logprob"][:]
    assert not (steps == 65_535).any(), "a shard was never written"
    row["top_logprob"] = steps.astype(np.float32) / np.float32(-2048)
    starts, lengths = group["passage/start"][:].tolist(), group["passage/length"][:].tolist()
    labels = {
        digest.tobytes(): {name: values[start : start + length] for name, values in row.items()}
        for digest, start, length in zip(group["passage/digest"][:], starts, lengths, strict=True)
    }
    text, ends = group["vocabulary/utf8"][:].tobytes(), group["vocabulary/end"][:].tolist()
    pieces = [text[begin:end].decode() for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    return manifest, pieces, group["vocabulary/is_special"][:] == 1, labels


def at_temperature(labels, temperatures, temperature, top_k):
    """Bucket view of one passage: log p_T of the first top_k candidates (U, k'), log mass outside (U,)."""
    column = temperatures.index(temperature)
    logprobs = labels["top_logprob"] / temperature - labels["lognorm"][:, column, None]
    beyond = np.concatenate([labels["tail_logprob"][:, column, None], logprobs[:, top_k:]], axis=1)
    return logprobs[:, :top_k], np.logaddexp.reduce(beyond, axis=1)
