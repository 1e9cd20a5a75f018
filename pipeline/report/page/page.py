"""The report put together: Jinja2 templates, everything foreign escaped, no address anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.comparison.run_facts import RunFacts
from pipeline.report.comparison_table import chance, heard_instead, span, word_remark
from pipeline.report.facts_table import shown
from pipeline.report.page.figures import NAME_BREAK
from pipeline.report.page.run_figures import cost_figure, loss_figure, tap_figure, teacher_figure
from pipeline.run_record import with_defaults
from teacher_cache.common.differences import differences
from teacher_cache.common.terminal import printable
from teacher_cache.store import Manifest

TEMPLATES = Path(__file__).parent / "templates"
MOST_FIGURES = 12  # of runs; a longer ladder shows its first ones


@dataclass(frozen=True, slots=True)
class SplitContent:
    """One split: `result` of `pipeline.stages.compare.comparison`, notes, and the browser's entries."""

    result: Mapping[str, Any]
    notes: Sequence[str]
    entries: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ReportContent:
    """All that a report shows; `caches`: manifests by fingerprint, of the caches that are at hand."""

    runs: Sequence[RunFacts]
    splits: Sequence[SplitContent]
    caches: Mapping[str, Manifest] = field(default_factory=dict)
    faults: Sequence[str] = ()


def report_page(content: ReportContent) -> str:
    """One HTML document with style, script and figures in it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {
        "percent": lambda share, digits=2: f"{100 * share:.{digits}f}",
        "points": lambda share: f"{100 * share:+.2f}",
        "span": span,
        "chance": chance,
        "heard": heard_instead,
        "remark": word_remark,
        "plain": shown,
        "name": breakable,
    }
    script, style = (
        Markup(environment.loader.get_source(environment, name)[0])  # type: ignore[union-attr]
        for name in ("browser.js", "style.css")
    )
    costs = decoder_costs(content.runs)
    return environment.get_template("report.html").render(
        content=content,
        script=script,
        style=style,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        browser_data=as_script_data({one.result["split"]: one.entries for one in content.splits}),
        figures=_figures(content, costs),
        costs=costs,
        settings=settings_that_differ(content.runs),
        facts=provenance_rows(content.runs),
        most_figures=MOST_FIGURES,
    )


def decoder_costs(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """A row for each decoder of each run on each split that says how fast it was."""
    rows = []
    for run in runs:
        for decoder, splits in run.evaluations.items():
            for split, evaluation in splits.items():
                speed = evaluation.scores.get("speed")
                if isinstance(speed, Mapping):
                    row = {"run": run.name, "split": split, **speed, "decoder": decoder}
                    rows.append(row | {"wer": evaluation.scores.get("wer", 0.0)})
    return rows


def settings_that_differ(runs: Sequence[RunFacts]) -> list[tuple[str, list[Any]]]:
    """(setting, its value in each run) of all in which any two runs differ, defaults filled in."""
    tables = [_flat(with_defaults(run.config)) for run in runs]
    keys = sorted({key for other in tables[1:] for key in differences(tables[0], other)})
    return [(key, [table.get(key) for table in tables]) for key in keys]


def provenance_rows(runs: Sequence[RunFacts]) -> list[tuple[str, list[Any]]]:
    """(fact, its value in each run): code, versions, machine, cache, and how the training went."""
    columns = []
    for run in runs:
        known, result = run.provenance, run.result
        commit = known.get("git_commit", "")
        columns.append(
            {
                "seed": run.seed,
                "cache": run.cache,
                "code": f"{commit} (changed)" if commit and known.get("git_changed") else commit,
                **{f"version of {name}": version for name, version in known.get("versions", {}).items()},
                **{name: known.get(name) for name in ("python", "platform", "cores")},
                **{
                    name.replace("_", " "): result.get(name)
                    for name in ("device", "precision", "steps", "best_step", "best_dev_wer", "seconds")
                },
                **{
                    name.replace("_", " "): result.get(name)
                    for name in ("parameters", "inference_parameters", "initial_checkpoint")
                },
            }
        )
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name) for column in columns]) for name in names]


def as_script_data(value: Any) -> Markup:
    """JSON that cannot end the element it stands in; invisible characters are escaped as everywhere."""
    text = json.dumps(_visible_tree(value), ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def breakable(name: str) -> Markup:
    """A name that breaks behind slashes, underscores, plus signs, dots and spaces, escaped."""
    parts = re.split(NAME_BREAK, _visible(name))
    return Markup('<span class="name">{}</span>').format(Markup("<wbr>").join(parts))


def _figures(content: ReportContent, costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shown_runs = content.runs[:MOST_FIGURES]
    return {
        "loss": [Markup(loss_figure(run, f"loss{number}")) for number, run in enumerate(shown_runs)],
        "taps": [Markup(tap_figure(run, f"taps{number}")) for number, run in enumerate(shown_runs)],
        "teacher": {
            fingerprint: Markup(teacher_figure(manifest.quality, f"teacher{number}"))
            for number, (fingerprint, manifest) in enumerate(content.caches.items())
        },
        "cost": Markup(cost_figure(costs, "cost")),
    }


def _flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _visible(value: Any) -> Any:
    """What Jinja2 puts out, before it escapes it: no control characters, no marks that turn the writing."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _visible_tree(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_visible(key): _visible_tree(entry) for key, entry in value.items()}
    return [_visible_tree(entry) for entry in value] if isinstance(value, list | tuple) else _visible(value)
