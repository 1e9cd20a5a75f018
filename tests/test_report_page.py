"""The report: everything that a reader asks for is on one page, nothing on it is obeyed or fetched."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from evaluated_runs import evaluated_run, utterances_of

from pipeline.cli import main
from pipeline.report.page.alignment_browser import choices_by_word, short_names
from pipeline.report.page.figures import MOST_POINTS, curves, folded, thinned
from pipeline.report.page.page import TEMPLATES, as_script_data, breakable
from teacher_cache.passages import Passage
from teacher_cache.store.inspection import Candidate, InspectedPassage, InspectedToken

HOSTILE = "<script>alert(1)</script>"
SAID = ["the sea was calm", "we see a ship", "the sea again", "a rare okapi"] * 3
FIRST = ["the see was calm", "we see a ship", "the sea again now", "a rare"] * 3
SECOND = ["the sea was calm", "we sea a ship", "the sea again", "a rare okapi"] * 3


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data


def reported(runs: Path, *references: str) -> str:
    out = runs / "out" / "report.html"
    out.parent.mkdir(exist_ok=True)
    where = ["--runs-root", str(runs), "--cache-root", str(runs / "caches")]
    done = CliRunner().invoke(main, ["report", *references, "--out", str(out), "--force", *where])
    assert done.exit_code == 0, done.output
    return out.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """The page with its names as they are, without the places where they may break."""
    return re.sub(r'<span class="name">|</span>|<wbr>', "", page)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, heard, steps in (("ladder/first", FIRST, 10), ("ladder/second", SECOND, 20)):
        evaluated_run(tmp_path / name, utterances_of(SAID), heard, {"trainer": {"max_steps": steps}})
    evaluated_run(
        tmp_path / "ladder" / "first", utterances_of(SAID), SAID, {"trainer": {"max_steps": 10}},
        decoder="words",
    )  # fmt: skip
    return tmp_path


def browser_data(page: str) -> Any:
    return json.loads(next(text for text in Page(page).scripts if text.startswith("{")))


def test_a_page_fetches_nothing_and_runs_no_script_but_its_own(runs: Path) -> None:
    page = reported(runs, "ladder/first", "ladder/second")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page.replace('"use strict";\n//', ""))
    elements = Page(page).elements
    assert {tag for tag, _ in elements}.isdisjoint({"link", "img", "iframe", "object", "base", "embed"})
    addresses = [
        value
        for _, attributes in elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "xlink:href")
    ]
    assert addresses and all(value and value.startswith("#") for value in addresses)
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and {value[1:] for value in addresses if value} <= set(ids)
    policy = next(a["content"] for tag, a in elements if tag == "meta" and "http-equiv" in a)
    assert policy and policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy


def test_what_is_foreign_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    """In names, settings, texts and versions: one parse of the page finds the page's own elements alone."""
    spoken = [f"the {HOSTILE} sea", "a \u202eship\x1b[2J"] * 4
    settings = {"trainer": {"max_steps": 5}, "data": {"corpus": f'"><img src=x onerror=1>{HOSTILE}'}}
    for name, heard, extra in (
        ("plain", ["the sea", "a ship"] * 4, {}),
        ("a'\"&b", [f"{HOSTILE} </script><b>", "x"] * 4, settings),
    ):
        evaluated_run(tmp_path / name, utterances_of(spoken), heard, extra)
    page = reported(tmp_path, "plain", "a'\"&b")
    plain = reported(tmp_path, "plain")
    parsed = Page(page)
    assert {tag for tag, _ in parsed.elements} <= {tag for tag, _ in Page(plain).elements} | {
        "details",
        "summary",
    }
    assert len(parsed.scripts) == len(Page(plain).scripts) == 2
    assert "\u202e" not in page and "\x1b" not in page and HOSTILE not in page
    words = {tuple(entry["words"]) for entry in browser_data(page)["test"]}
    assert ("the", HOSTILE, "sea") in words  # and the data is whole


def test_script_data_cannot_end_its_element() -> None:
    value = {"a": ["</script><!--", "&amp;", "\u2028"], "b": 1.5}
    text = str(as_script_data(value))
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": ["</script><!--", "&amp;", "\\u2028"], "b": 1.5}


def test_all_that_is_known_is_on_the_page(runs: Path) -> None:
    page = reported(runs, "ladder/first", "ladder/second")
    sections = [attributes["id"] for tag, attributes in Page(page).elements if tag == "section"]
    assert sections == ["rates", "loss", "taps", "teacher", "cost", "browser", "settings", "versions"]
    for shown in (
        "ladder/second − ladder/first",
        "ladder/first@words",
        "okapi",
        "trainer.max_steps",
        "version of torch",
        "2.11.0",
        "0.1875",  # the real-time factor
        "3 speakers",
    ):
        assert shown in text_of(page)
    assert page.count("<svg") == 5  # loss and taps of two runs, cost
    assert "ctc_tap1" in page and "final layer" in page


def test_a_ladder_s_folder_means_its_runs_in_its_order(runs: Path) -> None:
    rows = [{"run": "second"}, {"run": "first"}]
    (runs / "ladder" / "results.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert "ladder/first − ladder/second" in text_of(reported(runs, "ladder"))
    (runs / "ladder" / "results.json").write_text('{"rows": 3}', encoding="utf-8")
    done = CliRunner().invoke(
        main, ["report", "ladder", "--out", str(runs / "b.html"), "--runs-root", str(runs)]
    )
    assert done.exit_code == 1 and "results.json" in done.stderr and done.stderr.count("\n") == 1


def test_a_ladder_s_base_keeps_its_rates_and_curves_and_is_in_no_difference(runs: Path) -> None:
    base = {"trainer": {"max_steps": 30, "initial_checkpoint": str(runs / "ladder" / "first")}}
    evaluated_run(runs / "ladder" / "third", utterances_of(SAID), FIRST, base)
    page = text_of(reported(runs, "ladder"))
    assert "ladder/third − ladder/second" in page and "− ladder/first" not in page
    assert "ladder/first is in no difference" in page and page.count("<svg") == 7
    assert "− ladder/first" in text_of(reported(runs, "ladder/first", "ladder/second", "ladder/third"))


def test_the_browser_shows_every_word_of_every_run(runs: Path) -> None:
    entries = browser_data(reported(runs, "ladder/first@greedy", "ladder/second@greedy"))["test"]
    by_id = {entry["id"]: entry for entry in entries}
    assert len(entries) == len(SAID)
    for number, (said, *heard) in enumerate(zip(SAID, FIRST, SECOND, strict=True)):
        entry = by_id[f"{number // 4}-1-{number}"]
        assert " ".join(entry["words"]) == said
        for run, text in zip(entry["runs"], heard, strict=True):
            assert " ".join(word for cell in run["cells"] for word in cell if word) == text
    assert [run["name"] for run in entries[0]["runs"]] == ["first", "second"]


def test_one_run_alone_has_a_page_and_a_page_in_the_way_is_kept(runs: Path) -> None:
    assert "<svg" in reported(runs, "ladder/second")
    out = runs / "out" / "report.html"
    before = out.read_bytes()
    arguments = ["report", "ladder/second", "--out", str(out), "--runs-root", str(runs)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1 and "--force" in done.stderr and out.read_bytes() == before


def test_runs_of_different_utterances_still_have_their_curves(runs: Path) -> None:
    evaluated_run(runs / "other", utterances_of(SAID[:4]), SAID[:4], {"trainer": {"max_steps": 7}})
    page = reported(runs, "ladder/second", "other")
    assert "were not evaluated on the same utterances of test" in page and page.count("<svg") >= 4


def test_a_curve_is_told_apart_without_colour_and_stays_small() -> None:
    many = [(float(x), 1.0 + x % 7) for x in range(10_000)]
    svg = curves({"one": many, "two": [(0.0, 1.0), (9999.0, 3.0)]}, "step", "y", "name")
    assert len(svg) < 60_000 and "stroke-dasharray" in svg
    assert "currentColor" in svg and "#010203" not in svg and "http" not in svg
    assert not re.search(r'id="(?!name-)', svg)
    assert curves({"none": []}, "x", "y", "name") == ""
    dozen = curves({str(n): [(0.0, n), (1.0, n + 1)] for n in range(12)}, "x", "y", "name")
    drawn = re.findall(r'style="(fill: none; [^"]*stroke: #[^"]*stroke-width: 1\.6[^"]*)"', dozen)
    assert len(drawn) >= 12 and len(set(drawn)) == 12
    assert len(thinned(many)) <= MOST_POINTS and thinned(many)[-1] == many[-1]
    assert thinned(many[:5]) == many[:5]


def test_a_long_name_breaks_between_its_parts_alone() -> None:
    name = "mini/inter_aed+kd.v2 <b>-seed-1"
    assert re.split("<wbr>|<[^&]*?>", str(breakable(name)))[1:-1] == [
        "mini/", "inter_", "aed+", "kd.", "v2 ", "&lt;b&gt;-seed-1",
    ]  # fmt: skip
    assert "\u202e" not in breakable("a\u202eb")
    assert folded(name, 14) == "mini/inter_\naed+kd.v2 \n<b>-seed-1" and folded("ctc_tap1") == "ctc_tap1"


def test_every_name_on_the_page_says_where_it_breaks(runs: Path) -> None:
    """Those of runs and of settings; text of scripts, figures and the title aside."""
    page = reported(runs, "ladder/first", "ladder/second")
    shown = re.sub(r"<(script|svg|title|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert "ladder/<wbr>first" in shown and "trainer.<wbr>max_<wbr>steps" in shown
    assert not re.search(r"ladder/\w|\w\.max_", shown)
    assert (
        "overflow-wrap: anywhere" not in (TEMPLATES / "style.css").read_text("utf-8").partition("table {")[2]
    )


def test_a_legend_s_columns_are_as_many_as_its_labels_let_be_and_the_figure_grows_with_it() -> None:
    def rows_and_height(*labels: str) -> tuple[int, float]:
        svg = curves({label: [(0.0, 1.0), (1.0, 2.0)] for label in labels}, "x", "y", "name")
        legend = re.findall(rf'y="([\d.]+)"[^>]*>(?:{"|".join(labels)})</text>', svg)
        return len(set(legend)), float(re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[0])

    rows, height = rows_and_height("one", "two", "six")
    assert (rows, height) == (1, 259.2)
    rows, higher = rows_and_height(*(f"ladder/{name}_of_quite_some_length" for name in "abc"))
    assert rows == 3 and higher == pytest.approx(height + 2 * 14.4)


def test_names_lose_what_all_share() -> None:
    assert short_names(["demo/ctc-seed-1", "demo/kd-seed-1"]) == ["ctc", "kd"]
    assert short_names(["demo/ctc", "demo/ctc@words"]) == ["ctc", "ctc@words"]
    assert short_names(["alone/run"]) == ["alone/run"]


def test_the_teacher_s_choices_stand_at_the_words_that_they_spell() -> None:
    def token(piece: str, *others: tuple[str, float]) -> InspectedToken:
        known = (Candidate(piece, 0.6, True), *(Candidate(text, share, False) for text, share in others))
        return InspectedToken(piece, 0.6, 1, known, 0.0)

    tokens = (token("the"), token("oka", ("zeb", 0.3), ("no", 1e-5)), token("##pi"), token("swims"))
    passage = InspectedPassage("a", Passage("", "the okapi swims", ""), tokens)
    found = choices_by_word(["the", "okapi", "swims"], passage)
    assert [[piece["piece"] for piece in pieces] for pieces in found] == [["the"], ["oka", "##pi"], ["swims"]]
    assert found[1][0]["choices"] == [["oka", 60.0], ["zeb", 30.0]]
    other = choices_by_word(["thé", "okapi", "swims"], passage)  # spelled otherwise: shown, tied to no word
    assert [len(pieces) for pieces in other] == [4, 0, 0]
    assert choices_by_word(["the"], None) == []
