"""The floor plan: every room is shipped, no circle of files, and the store exports what is used."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import teacher_cache.store

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "student", "teacher_cache")


def modules_below(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the packages."""
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def imports_of(file: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Our modules that a file imports anywhere: in functions and for type checking too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                name = inner if inner in modules else node.module
                if name in modules:
                    yield name


def circle_below(root: Path) -> list[str]:
    """The modules of a circle in their order, [] where there is none."""
    modules = modules_below(root)
    graph = {name: set(imports_of(file, modules)) for name, file in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert len(modules_below(ROOT)) > 100
    assert circle_below(ROOT) == []


@pytest.mark.parametrize(
    "back",
    [
        "from student.data.one import value",
        "from student.data import one",
        "import student.data.one",
        "def later():\n    import student.data.one",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from student.data.one import value",
    ],
)
def test_a_planted_circle_is_found(tmp_path: Path, back: str) -> None:
    folder = tmp_path / "student" / "data"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").write_text("")
    (folder / "one.py").write_text("from student.data.two import value\n")
    (folder / "two.py").write_text("value = 1\n")
    assert circle_below(tmp_path) == []
    (folder / "two.py").write_text(f"value = 1\n{back}\n")
    assert set(circle_below(tmp_path)) == {"student.data.one", "student.data.two"}


@pytest.fixture(scope="module")
def setuptools_table() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"])


def test_every_room_is_shipped(setuptools_table: dict[str, Any]) -> None:
    folders = {file.parent for file in modules_below(ROOT).values()}
    names = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    assert sorted(setuptools_table["packages"]) == sorted(names)
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_every_file_beside_the_code_is_shipped(setuptools_table: dict[str, Any]) -> None:
    for package in PACKAGES:
        patterns = setuptools_table["package-data"][package]
        shipped = {file for pattern in patterns for file in (ROOT / package).glob(pattern) if file.is_file()}
        files = {file for file in (ROOT / package).rglob("*") if file.is_file() and file.suffix != ".py"}
        assert {file for file in files if "__pycache__" not in file.parts} == shipped


def test_a_room_says_what_it_is_and_loads_nothing() -> None:
    for name, file in modules_below(ROOT).items():
        if file.name == "__init__.py" and name not in ("student", "teacher_cache.store"):
            body = ast.parse(file.read_text(encoding="utf-8")).body
            assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) and len(body) == 1, name


def test_the_store_exports_what_the_student_or_the_pipeline_uses_and_nothing_else() -> None:
    modules = modules_below(ROOT)
    used = set()
    for name, file in modules.items():
        if name.startswith(("student", "pipeline")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == "teacher_cache.store":
                    used |= {alias.name for alias in node.names}
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    used |= {node.attr} if node.value.id == "store" else set()
    assert used == set(teacher_cache.store.__all__)
