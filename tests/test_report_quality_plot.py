"""The plot shows the figures that a manifest holds, and refuses what it cannot show."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.report.quality_plot import plot_mass
from teacher_cache.errors import CacheError

QUALITY = {
    "rows": 1234,
    "mass_at": {"1": 0.171, "4": 0.31, "8": 0.382, "16": 0.452},
    "accuracy_at": {"1": 0.175, "4": 0.322, "8": 0.398, "16": 0.468},
}


def test_the_picture_names_every_k_and_the_cache(tmp_path: Path) -> None:
    plot_mass(QUALITY, "cache-a", tmp_path / "mass.svg")
    drawn = (tmp_path / "mass.svg").read_text()
    for said in ("cache-a: 1,234 rows", "mass kept", "own piece among them", *QUALITY["mass_at"]):
        assert f"<!-- {said} -->" in drawn
    plot_mass(QUALITY, "cache-a", tmp_path / "mass.png")
    assert (tmp_path / "mass.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"not one of \.png, \.svg, \.pdf"):
        plot_mass(QUALITY, "a", tmp_path / "mass.txt")
    with pytest.raises(CacheError, match="holds no mass at K"):
        plot_mass({"rows": 1}, "a", tmp_path / "mass.png")
    (tmp_path / "a file").touch()
    with pytest.raises(CacheError, match="cannot be written"):
        plot_mass(QUALITY, "a", tmp_path / "a file" / "mass.png")
