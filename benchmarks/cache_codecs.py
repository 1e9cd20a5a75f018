"""What each codec makes of real rows: bytes a row, time to pack and unpack, and the error of what comes back.

    python benchmarks/cache_codecs.py --cache CACHE [--quick]

One shard of a published cache is packed chunk by chunk (1,024 rows by 16 columns, as the format has them).
Prints the table of docs/cache_format.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numcodecs import BitRound, Blosc, Delta, FixedScaleOffset, Zstd
from options import cache_option, count_option, quick_option

from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.layout import CHUNK_COLUMNS, CHUNK_ROWS, LOGPROB_STEPS_PER_NAT, dequantise

Pack = Callable[[np.ndarray], bytes]
Unpack = Callable[[bytes, np.ndarray], np.ndarray]
SHUFFLES = {"none": Blosc.NOSHUFFLE, "bytes": Blosc.SHUFFLE, "bits": Blosc.BITSHUFFLE}


@dataclass(frozen=True)
class Codec:
    """pack : a chunk to bytes     unpack : back to an array of the chunk's shape"""

    name: str
    pack: Pack
    unpack: Unpack


def blosc(level: int, shuffle: str, algorithm: str = "zstd") -> Codec:
    codec = Blosc(cname=algorithm, clevel=level, shuffle=SHUFFLES[shuffle])
    return Codec(
        f"blosc {algorithm} {level}, shuffle {shuffle}",
        lambda chunk: bytes(codec.encode(chunk)),
        lambda packed, chunk: np.frombuffer(codec.decode(packed), chunk.dtype).reshape(chunk.shape),
    )


def zstd(level: int) -> Codec:
    codec = Zstd(level=level)
    return Codec(
        f"zstd {level}",
        lambda chunk: bytes(codec.encode(chunk)),
        lambda packed, chunk: np.frombuffer(codec.decode(packed), chunk.dtype).reshape(chunk.shape),
    )


def transposed(inner: Codec) -> Codec:
    """Column by column: neighbours are the same rank of neighbouring rows."""
    return Codec(
        f"columns first, {inner.name}",
        lambda chunk: inner.pack(np.ascontiguousarray(chunk.T)),
        lambda packed, chunk: inner.unpack(packed, np.ascontiguousarray(chunk.T)).T,
    )


def delta(inner: Codec) -> Codec:
    """Differences along each row: log-probabilities rise in small steps."""

    def pack(chunk: np.ndarray) -> bytes:
        return inner.pack(Delta(dtype=chunk.dtype).encode(chunk).reshape(chunk.shape))

    def unpack(packed: bytes, chunk: np.ndarray) -> np.ndarray:
        values = Delta(dtype=chunk.dtype).decode(inner.unpack(packed, chunk).ravel())
        return np.asarray(values).reshape(chunk.shape)

    return Codec(f"Delta, {inner.name}", pack, unpack)


def bit_round(bits: int, inner: Codec) -> Codec:
    """Float32 cut to so many bits of mantissa."""
    rounding = BitRound(keepbits=bits)
    return Codec(
        f"float32, BitRound {bits}, {inner.name}",
        lambda chunk: inner.pack(np.asarray(rounding.encode(chunk)).view(np.float32).reshape(chunk.shape)),
        inner.unpack,
    )


def fixed_scale(inner: Codec) -> Codec:
    """Float32 to the 16-bit steps of ours, by numcodecs' filter."""
    scaling = FixedScaleOffset(offset=0, scale=-LOGPROB_STEPS_PER_NAT, dtype="<f4", astype="<u2")

    def unpack(packed: bytes, chunk: np.ndarray) -> np.ndarray:
        steps = inner.unpack(packed, chunk.astype("<u2"))
        return np.asarray(scaling.decode(steps.ravel())).reshape(chunk.shape)

    return Codec(
        f"float32, FixedScaleOffset, {inner.name}",
        lambda chunk: inner.pack(np.asarray(scaling.encode(chunk)).reshape(chunk.shape)),
        unpack,
    )


def integer_codecs(quick: bool) -> list[Codec]:
    """For ids and for steps alike, all lossless."""
    codecs = [blosc(level, shuffle) for level in ((5,) if quick else (1, 5, 9)) for shuffle in SHUFFLES]
    codecs += [zstd(5), blosc(5, "bytes", "lz4"), transposed(blosc(5, "none")), transposed(blosc(5, "bytes"))]
    return [*codecs, *(delta(blosc(5, shuffle)) for shuffle in SHUFFLES)]


def float_codecs() -> list[Codec]:
    """For log-probabilities kept as float32: what other formats would do."""
    inner = blosc(5, "bytes")
    return [inner, bit_round(10, inner), bit_round(13, inner), bit_round(16, inner), fixed_scale(inner)]


def chunks_of(values: np.ndarray) -> Iterator[np.ndarray]:
    columns = range(0, values.shape[1], CHUNK_COLUMNS) if values.ndim == 2 else [None]
    for row in range(0, len(values), CHUNK_ROWS):
        for column in columns:
            part = values[row : row + CHUNK_ROWS]
            part = part if column is None else part[:, column : column + CHUNK_COLUMNS]
            yield np.ascontiguousarray(part)


def measured(array: str, values: np.ndarray, codec: Codec) -> str:
    """One line of the table."""
    size, packing, unpacking, error = 0, 0.0, 0.0, 0.0
    for chunk in chunks_of(values):
        started = time.process_time()
        packed = codec.pack(chunk)
        middle = time.process_time()
        back = codec.unpack(packed, chunk)
        unpacking += time.process_time() - middle
        packing += middle - started
        size += len(packed)
        error = max(error, float(np.abs(back.astype(np.float64) - chunk).max()))
    rows = len(values)
    shown = f"{error:.1e}" if error else "0"
    per = [f"{1e6 * seconds / rows:.2f}" for seconds in (packing, unpacking)]
    return f"| `{array}` | {codec.name} | {size / rows:.1f} | {' | '.join(per)} | {shown} |"


@click.command()
@cache_option(required=True)
@count_option("shards", 4, "of its shards, from the first on")
@quick_option("one shard and one level")
def main(cache: Path, shards: int, quick: bool) -> None:
    """Compare codecs on the rows of a real cache."""
    arrays = CacheArrays(cache)
    last = arrays.layout.shard_rows(min(1 if quick else shards, arrays.layout.num_shards) - 1)
    span = slice(0, last.stop)
    print(f"{span.stop:,} rows, K = {arrays.layout.top_k}\n")
    print("| array | codec | bytes a row | packing, µs a row | unpacking, µs a row | largest error, nats |")
    print("|---|---|---|---|---|---|")
    for name in ("row/top_id", "row/top_logprob"):
        for codec in integer_codecs(quick):
            print(measured(name, arrays.read(name, span), codec), flush=True)
    along = arrays.read("row/top_logprob", span)
    along[:, 1:] -= along[:, :-1].copy()  # never negative: they rise along a row
    for shuffle in SHUFFLES:
        print(measured("row/top_logprob, differences along the row", along, blosc(5, shuffle)), flush=True)
    exact = dequantise(arrays.read("row/top_logprob", span))
    for codec in float_codecs():
        print(measured("row/top_logprob", exact, codec), flush=True)
    for name in ("row/gold_id", "row/gold_logprob", "row/tail_logprob", "row/lognorm"):
        for shuffle in SHUFFLES:
            print(measured(name, arrays.read(name, span), blosc(5, shuffle)), flush=True)


if __name__ == "__main__":
    main()
