"""Inspected passages as one HTML page that needs nothing else: no script, no font, no address."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pipeline.report.inspect_table import certainty, percent
from teacher_cache.common.terminal import printable
from teacher_cache.store import Manifest
from teacher_cache.store.inspection import InspectedPassage, InspectedToken

_STYLE = """
:root { color-scheme: light dark; --bar: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 0.3rem; } p { margin: 0.3rem 0; }
.context, .facts, .rest { opacity: 0.65; }
.text span { padding: 0.1rem 0.25rem; border-radius: 0.25rem; margin-right: 0.15rem; }
.likely { background: #2a92; } .possible { background: #da25; } .surprising { background: #d336; }
table { border-collapse: collapse; margin-top: 0.6rem; }
th { text-align: left; font-weight: 600; } td, th { padding: 0.15rem 0.8rem 0.15rem 0; vertical-align: top; }
.figure { text-align: right; font-variant-numeric: tabular-nums; }
.gold { font-weight: 700; text-decoration: underline; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def inspection_page(inspected: Sequence[InspectedPassage], manifest: Manifest) -> str:
    """A whole HTML document; every text of the cache and the corpus is escaped."""
    teacher = manifest.teacher
    facts = [manifest.fingerprint, teacher.name, teacher.revision, teacher.licence, manifest.recipe.masking]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Teacher cache {_safe(manifest.fingerprint)}</title>",
            f"<style>{_STYLE}</style></head><body>",
            "<h1>What could have stood there</h1>",
            f'<p class="facts">{" · ".join(_safe(fact) for fact in facts if fact)}</p>',
            '<p><span class="likely">50 % and more</span> <span class="possible">5 % and more</span> '
            '<span class="surprising">less</span>: the probability of the token itself; it is underlined '
            "among its alternatives. Figures are per cent.</p>",
            *(_section(shown) for shown in inspected),
            "</body></html>\n",
        ]
    )


def _section(shown: InspectedPassage) -> str:
    text = "".join(
        f'<span class="{certainty(token.probability)}">{_safe(token.piece)}</span>' for token in shown.tokens
    )
    head = "<tr><th>token</th><th>%</th><th>rank</th><th>alternatives</th></tr>"
    return "\n".join(
        [
            f"<section><h2>{_safe(shown.name)}</h2>",
            f'<p class="context">{_safe(shown.passage.left)}</p>' if shown.passage.left else "",
            f'<p class="text">{text}</p>',
            f'<p class="context">{_safe(shown.passage.right)}</p>' if shown.passage.right else "",
            f"<table>{head}",
            *(_row(token) for token in shown.tokens),
            "</table></section>",
        ]
    )


def _row(token: InspectedToken) -> str:
    alternatives = " &nbsp; ".join(
        f'<span class="{"gold" if candidate.is_gold else "other"}">{_safe(candidate.piece)}</span> '
        f'<span class="rest">{percent(candidate.probability)}</span>'
        for candidate in token.candidates
    )
    rank = "-" if token.rank is None else str(token.rank)
    return (
        f'<tr><td class="{certainty(token.probability)}">{_safe(token.piece)}</td>'
        f'<td class="figure">{percent(token.probability)}</td><td class="figure">{rank}</td>'
        f'<td>{alternatives} &nbsp; <span class="rest">others {percent(token.other_probability)}</span></td>'
        "</tr>"
    )


def _safe(text: str) -> str:
    return escape(printable(text), quote=True)
