"""The laws of rows: one code holds what is written, read and verified to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from teacher_cache.store.layout import SATURATED, Layout, dequantise, quantise, row_blocks
from teacher_cache.store.rows import RowBlock, encode

MASS_TOLERANCE = 1e-3
# A gold piece's own log-probability and the stored one of the candidate that it is: half a step of rounding
# lies between them, and as much again is left to two ways of computing one logarithm.
GOLD_STEPS = 1


def fault_of(rows: RowBlock, layout: Layout, is_special: np.ndarray) -> str:
    """The first law that rows break which are not stored yet, in words; "" where they break none.

    is_special : bool (V,), pieces that are never ranked
    """
    return value_fault(rows, layout) or stored_fault(encode(rows, layout), layout, is_special)


def value_fault(rows: RowBlock, layout: Layout) -> str:
    """What no stored form could say: another shape, a value that is no number or no probability."""
    count, top_k, temperatures = len(rows), layout.top_k, len(layout.temperatures)
    shapes = {
        "gold_id": (count,),
        "gold_logprob": (count,),
        "top_id": (count, top_k),
        "top_logprob": (count, top_k),
        "lognorm": (count, temperatures),
        "tail_logprob": (count, temperatures),
    }
    for name, shape in shapes.items():
        values = getattr(rows, name)
        if values.shape != shape:
            return f"{name} has shape {values.shape}, not {shape}"
        if values.dtype.kind == "f":
            fault = _float_fault(name, values, 0)
        else:
            fault = _id_fault(name, values, layout)
        if fault:
            return fault
    return ""


def stored_fault(
    stored: Mapping[str, np.ndarray],
    layout: Layout,
    is_special: np.ndarray,
    temperatures: Sequence[float] | None = None,
    first_row: int = 0,
) -> str:
    """The first law that stored rows break, in words; "" where they break none.

    stored : array name -> values. Of the candidates the first columns are enough, then the laws that are
    visible in them hold; without `row/lognorm` and `row/tail_logprob` nothing is said of the tail
    temperatures : of those stored, whose mass is added up; None for every one
    first_row : number of the first of these rows, for the message
    """
    fault = unwritten_fault(stored, first_row)
    for name in ("row/gold_id", "row/top_id"):
        fault = fault or _id_fault(_short(name), stored[name], layout)
    for name in ("row/gold_logprob", "row/lognorm", "row/tail_logprob"):
        if not fault and name in stored:
            fault = _float_fault(_short(name), stored[name], first_row)
    return (
        fault
        or _order_fault(stored, first_row)
        or _candidates_fault(stored["row/top_id"], is_special, first_row)
        or _gold_fault(stored, layout, is_special, first_row)
        or _mass_fault(stored, layout, temperatures, first_row)
    )


def unwritten_fault(stored: Mapping[str, np.ndarray], first_row: int) -> str:
    """Which row reads as fill values, in words: zarr says nothing of a shard file that is not there."""
    for values in stored.values():
        if values.dtype.kind == "f":
            is_fill = np.isnan(values)
        elif values.max(initial=0) == np.iinfo(values.dtype).max:
            is_fill = values == np.iinfo(values.dtype).max
        else:
            continue
        if is_fill.any():
            row = np.flatnonzero(is_fill.reshape(len(values), -1).any(axis=1))[0]
            return f"row {first_row + row} was never written"
    return ""


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _id_fault(name: str, values: np.ndarray, layout: Layout) -> str:
    if values.size and (values.min() < 0 or values.max() >= layout.vocab_size):
        return f"{name} holds {values.max()}, outside a vocabulary of {layout.vocab_size}"
    return ""


def _float_fault(name: str, values: np.ndarray, first_row: int) -> str:
    if not np.isfinite(values).all():
        allowed = np.isfinite(values) | (np.isneginf(values) & (name != "lognorm"))
        if not allowed.all():
            return f"{name} holds {values[~allowed][0]} at row {first_row + np.argwhere(~allowed)[0][0]}"
    if name != "lognorm" and values.size and values.max() > MASS_TOLERANCE:
        return f"{name} holds {values.max():.4f}, a probability above 1"
    return ""


def _order_fault(stored: Mapping[str, np.ndarray], first_row: int) -> str:
    steps = np.ascontiguousarray(stored["row/top_logprob"])
    columns, flat = steps.shape[1], steps.reshape(-1)
    rising = flat[1:] < flat[:-1]
    rising[columns - 1 :: columns] = False  # from one row to the next
    if rising.any():
        return f"top_logprob rises along row {first_row + np.flatnonzero(rising)[0] // columns}"
    return ""


def _candidates_fault(ids: np.ndarray, is_special: np.ndarray, first_row: int) -> str:
    last_special = np.flatnonzero(is_special)[-1:]  # most vocabularies begin with theirs
    if ids.size and last_special.size and ids.min() <= last_special[0]:
        special = is_special[ids]
        if special.any():
            row = np.flatnonzero(special.any(axis=1))[0]
            return f"top_id ranks a special piece, {ids[row][special[row]][0]}, in row {first_row + row}"
    if _has_repeats(ids):
        ordered = np.sort(ids, axis=1)
        row = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))[0]
        return f"top_id repeats a piece in row {first_row + row}"
    return ""


def _has_repeats(ids: np.ndarray) -> bool:
    """Whether any row holds an id twice: columns are compared whole, in a quarter of the time of sorting."""
    columns = np.ascontiguousarray(ids.T)
    return any((columns[apart:] == columns[:-apart]).any() for apart in range(1, len(columns)))


def _gold_fault(
    stored: Mapping[str, np.ndarray], layout: Layout, is_special: np.ndarray, first_row: int
) -> str:
    """A row's own piece has its probability once: as itself and as a candidate, or below them all.

    A special piece is never a candidate, however likely it is; like every other that is none, its mass is
    part of the tail.
    """
    gold_id, ids = stored["row/gold_id"], stored["row/top_id"]
    steps = stored["row/top_logprob"][:, : ids.shape[1]]
    gold_steps = quantise(stored["row/gold_logprob"]).astype(np.int32)
    ranked, rank = np.divmod(np.flatnonzero(ids == gold_id[:, None]), ids.shape[1])  # at most one a row
    is_ranked = np.zeros(len(ids), bool)
    is_ranked[ranked] = True
    likely = steps[:, -1].astype(np.int32)
    likely[ranked] = steps[ranked, rank]
    wrong = np.where(is_ranked, np.abs(gold_steps - likely) > GOLD_STEPS, gold_steps < likely - GOLD_STEPS)
    wrong &= is_ranked | ~is_special[gold_id]
    if "row/tail_logprob" in stored and ids.shape[1] == layout.top_k:
        tail = stored["row/tail_logprob"][:, layout.temperatures.index(1.0)]
        wrong |= ~is_ranked & (np.exp(stored["row/gold_logprob"]) > np.exp(tail) + MASS_TOLERANCE)
    if wrong.any():
        row = np.flatnonzero(wrong)[0]
        logprob = stored["row/gold_logprob"][row]
        return f"gold_logprob {logprob:.4f} of row {first_row + row} contradicts its candidates"
    return ""


def _mass_fault(
    stored: Mapping[str, np.ndarray], layout: Layout, temperatures: Sequence[float] | None, first_row: int
) -> str:
    """Top K and tail make 1 at every temperature asked for; candidates alone make no more at T = 1.

    A saturated log-probability is only an upper bound, which a high temperature makes visible: it
    counts for the mass that must be reached, and not for the mass that must not be exceeded.
    """
    steps = stored["row/top_logprob"]
    is_whole = "row/tail_logprob" in stored and steps.shape[1] == layout.top_k
    for temperature in (temperatures or layout.temperatures) if is_whole else (1.0,):
        lognorm, tail = np.zeros(len(steps), np.float32), np.zeros(len(steps), np.float32)
        if is_whole:
            column = layout.temperatures.index(temperature)
            lognorm = stored["row/lognorm"][:, column]
            tail = np.exp(stored["row/tail_logprob"][:, column])
        mass = _mass(steps, lognorm, temperature) + tail
        wrong = mass > 1 + MASS_TOLERANCE
        if wrong.any():
            certain = steps[wrong] < SATURATED
            mass_of_certain = _mass(steps[wrong], lognorm[wrong], temperature, certain) + tail[wrong]
            wrong[wrong] = mass_of_certain > 1 + MASS_TOLERANCE
        if is_whole:
            wrong |= mass < 1 - MASS_TOLERANCE
        if wrong.any():
            row = np.flatnonzero(wrong)[0]
            also = " and tail" if is_whole else ""
            limit = f"1 within {MASS_TOLERANCE:g}" if is_whole else f"1 or less within {MASS_TOLERANCE:g}"
            return (
                f"top {steps.shape[1]}{also} make {mass[row]:.5f} at temperature {temperature:g} "
                f"in row {first_row + row}, not {limit}"
            )
    return ""


def _mass(
    steps: np.ndarray, lognorm: np.ndarray, temperature: float, counted: np.ndarray | None = None
) -> np.ndarray:
    """Float32 (n,): the summed probabilities of each row, of the `counted` columns where they are given."""
    mass, ones = np.empty(len(steps), np.float32), np.ones(steps.shape[1], np.float32)
    is_normalised = not lognorm.any()  # at temperature 1
    for rows in row_blocks(len(steps)):  # what fits in a core's cache takes a third of the time
        shares = dequantise(steps[rows], temperature)
        if not is_normalised:
            shares -= lognorm[rows, None]
        with np.errstate(over="ignore"):  # of a normaliser that is none: infinite, so refused
            np.exp(shares, out=shares)
        if counted is not None:
            shares *= counted[rows]
        np.dot(shares, ones, out=mass[rows])  # as a sum, in a tenth of the time
    return mass
