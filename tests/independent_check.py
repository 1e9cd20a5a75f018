"""Holds a format 1 cache to its manifest with numpy and zarr alone, as docs/cache_format.md says."""

import json
from hashlib import sha256
from pathlib import Path

import zarr


def other_parts(path):
    """Names of what is not as the manifest says: zarr.json files, tables, and (shard, array) of receipts."""
    path = Path(path)
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    group, rows = zarr.open_group(path, mode="r"), manifest["layout"]["rows_per_shard"]
    metadata = manifest["metadata_sha256"].items()
    found = [name for name, digest in metadata if sha256((path / name).read_bytes()).hexdigest() != digest]
    tables = manifest["tables_sha256"].items()
    found += [name for name, digest in tables if sha256(group[name][:].tobytes()).hexdigest() != digest]
    for receipt in manifest["receipts"]:
        first = receipt["shard"] * rows
        for name, digests in receipt["columns_sha256"].items():
            values = group[name][first : first + rows].reshape(receipt["rows"], -1)
            chunks = [values[:, column : column + 16] for column in range(0, values.shape[1], 16)]
            if [sha256(chunk.tobytes()).hexdigest() for chunk in chunks] != digests:
                found.append((receipt["shard"], name))
    return found
