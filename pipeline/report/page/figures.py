"""Figures of the report as SVG to stand inside a page: its colour of text, told apart without colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]
Curves = Mapping[str, Points]
"""Label -> (x, y), ascending."""

NAME_BREAK = r"(?<=[/_+. ])"  # behind these a long name may go on in another line
MOST_POINTS = 150  # of a curve; more are averaged in runs of equal length
_INK = "#010203"  # stands for the page's own colour of text
# In the middle between black and white, so that they are seen on both; told apart by dash and marker as well.
_COLOURS = ("#3b82c4", "#c2611f", "#3d9148", "#a855a8", "#8a7a1f", "#c0506b", "#2b9a9a", "#7a6ccf")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 3)), (0, (1, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "x", "P", "*")
_LEGEND_LETTERS, _LINE_LETTERS = 60, 6  # in a figure's width; of the piece of curve before a label
_LEGEND_INCHES = 0.2  # a line
_MARKED = 8  # points of a curve that carry its marker


def curves(
    drawn: Curves, x_label: str, y_label: str, name: str, *, is_log_y: bool = False, is_log_x: bool = False
) -> str:
    """An SVG of labelled curves, "" where there is none.

    name : of the figure, distinct within its page     is_log_x : to the base 2, with a tick at each x
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: it would look for a screen

    drawn = {folded(label): thinned(points) for label, points in drawn.items() if points}
    if not drawn:
        return ""
    columns, legend_inches = _legend([line for label in drawn for line in label.splitlines()])
    settings = {
        "svg.fonttype": "none",
        "font.size": 11,
        "svg.hashsalt": name,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), _INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(5.0, 3.4 + legend_inches), layout="constrained")
        axes = figure.add_subplot()
        for number, (label, points) in enumerate(drawn.items()):
            again = number // len(_COLOURS)  # from the ninth on a colour comes with another dash and marker
            axes.plot(
                *zip(*points, strict=True),
                label=label,
                color=_COLOURS[number % len(_COLOURS)],
                linestyle=_DASHES[(number + again) % len(_DASHES)],
                marker=_MARKERS[(number + 3 * again) % len(_MARKERS)],
                markersize=5,
                markevery=max(1, len(points) // _MARKED),
                linewidth=1.6,
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if is_log_y and all(y > 0 for points in drawn.values() for _, y in points):
            axes.set_yscale("log")
        if is_log_x:
            ticks = sorted({x for points in drawn.values() for x, _ in points})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        else:
            axes.locator_params(axis="x", nbins=6)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.legend(loc="outside lower center", ncols=columns, fontsize=10, frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return embedded(stream.getvalue(), name)


def _legend(lines: Sequence[str]) -> tuple[int, float]:
    """Its columns, one to three, and how high it is."""
    columns = max(1, min(3, _LEGEND_LETTERS // (max(map(len, lines)) + _LINE_LETTERS)))
    return columns, _LEGEND_INCHES * -(-len(lines) // columns)


def embedded(svg: str, name: str) -> str:
    """The <svg> element alone: no addresses, ids of its own, the page's colour and font, as wide as it."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", element)
    element = element.replace("xlink:href", "href").replace(_INK, "currentColor")
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", element)
    element = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", element)
    element = re.sub(r"font-family: [^;\"]+;? ?", "", element)
    element = re.sub(r"<!--.*?-->", "", element, flags=re.DOTALL)
    head, sign, rest = element.partition(">")
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + sign + rest


def folded(label: str, most: int = _LEGEND_LETTERS - _LINE_LETTERS) -> str:
    """A legend's label in lines of at most so many letters, broken where names of the page break."""
    lines = [""]
    for part in re.split(NAME_BREAK, label):
        if lines[-1] and len(lines[-1] + part) > most:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points: means of neighbours, the last point as it is."""
    step = -(-len(points) // most)
    if step == 1:
        return list(points)
    groups = [points[start : start + step] for start in range(0, len(points), step)]
    means = [tuple(sum(part) / len(group) for part in zip(*group, strict=True)) for group in groups[:-1]]
    return [*((x, y) for x, y in means), points[-1]]
