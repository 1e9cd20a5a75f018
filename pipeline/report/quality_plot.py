"""A picture of how much of the teacher the first k candidates keep, from a cache's quality figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from teacher_cache.common.files import disk_faults_told, whole_file
from teacher_cache.errors import CacheError

FORMATS = (".png", ".svg", ".pdf")


def plot_mass(quality: dict[str, Any], title: str, path: Path) -> None:
    """Write mass kept and own-piece accuracy over K to an image file.

    quality : what `quality_figures` gave     path : .png, .svg or .pdf
    Raises CacheError for figures without mass, another suffix, or a file that cannot be written.
    """
    if path.suffix not in FORMATS:
        raise CacheError(f"{path}: not one of {', '.join(FORMATS)}; name the plot after one of them")
    mass, accuracy = (_points(quality, name) for name in ("mass_at", "accuracy_at"))
    if not mass:
        raise CacheError(f"{title}: its manifest holds no mass at K; rebuild with `bert2ctc cache build`")
    from matplotlib.figure import Figure  # not pyplot: it would look for a screen

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for points, label in ((mass, "mass kept"), (accuracy, "own piece among them")):
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks([k for k, _ in mass], labels=[str(k) for k, _ in mass])
    axes.set_ylim(0, 100)
    axes.set_xlabel("K, candidates kept")
    axes.set_ylabel("%")
    axes.set_title(f"{title}: {quality['rows']:,} rows")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with disk_faults_told(path), whole_file(path) as stream:
        figure.savefig(stream, format=path.suffix.removeprefix("."))


def _points(quality: dict[str, Any], name: str) -> list[tuple[int, float]]:
    """(K, percent), ascending; JSON has text for keys."""
    return sorted((int(k), 100 * float(share)) for k, share in quality.get(name, {}).items())
