"""What the scripts of the teacher and the cache are asked alike, and how they leave their figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

PATH = click.Path(path_type=Path)
FILE_OR_FOLDER = click.Path(path_type=Path, exists=True)
DTYPES = ("float32", "bfloat16")


def text_option(command: Command) -> Command:
    return click.option("--text", type=FILE_OR_FOLDER, required=True, help="lines: ID TEXT")(command)


def vocabulary_option(command: Command) -> Command:
    return click.option("--vocabulary", type=FILE_OR_FOLDER, required=True, help="vocab.txt")(command)


def teacher_option(command: Command) -> Command:
    folder = click.Path(path_type=Path, exists=True, file_okay=False)
    return click.option("--teacher", type=folder, required=True, help="a Hugging Face folder")(command)


def cache_option(required: bool, otherwise: str = "") -> Callable[[Command], Command]:
    help_text = "a published cache" + (f"; else {otherwise}" if otherwise else "")
    return click.option("--cache", type=FILE_OR_FOLDER, required=required, help=help_text)


def dtype_option(default: str) -> Callable[[Command], Command]:
    return click.option("--dtype", type=click.Choice(DTYPES), default=default, show_default=True)


def count_option(name: str, default: int, help_text: str = "") -> Callable[[Command], Command]:
    return click.option(f"--{name}", default=default, show_default=True, help=help_text or None)


def quick_option(help_text: str) -> Callable[[Command], Command]:
    return click.option("--quick", is_flag=True, help=help_text)


def json_option(command: Command) -> Command:
    return click.option("--json", "json_file", type=PATH, help="write the figures there")(command)


def write_figures(json_file: Path | None, figures: Mapping[str, Any]) -> None:
    """One JSON object, where a file was named."""
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
