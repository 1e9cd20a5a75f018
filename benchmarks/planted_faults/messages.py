"""Group 4, messages: foreign text is harmless, signals end in one line, names come first."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from case import Case
from forgery import edit
from state import cache_of, rewrite_json

EVIL = "\x1b]0;owned\x07\x1b[2J[bold red]x[/bold red]\u202eabc\r\nError: none"
SHOWN = r"\x1b]0;owned\x07"
LONG = "train tones.toml --run-dir new --set trainer.max_steps=1000000"
STOPPED, SAVED = {number: 128 + number for number in signal.Signals}, 75
NAMES = ("../x", "a b", ".hidden", "x" * 200, "\x1b[2J", "a/b")


def cases() -> Iterator[Case]:
    yield from _terminal()
    yield from _local_faults()
    yield from _names()
    yield from _redirects()
    yield from _signals()
    for command, told, never_told in (
        ("cache info tones", "teacher", "{'"),
        ("cache info tones --cache-root old", "temperatures", "{'"),
        ("runs diff tones again", "best WER %", "{'"),
        ("cache ls", "tones", "{'"),
    ):
        yield Case(group=4, fault="tables", command=command, code=0, told=told, never_told=never_told)


def _terminal() -> Iterator[Case]:
    for command in ("cache info tones", "cache ls"):
        yield Case(
            group=4,
            fault="a teacher's name obeyed by a terminal",
            command=command,
            code=0,
            told=SHOWN,
            plant=lambda folder: edit(cache_of(folder), lambda entry: entry["teacher"].update(name=EVIL)),
        )
    yield Case(
        group=4,
        fault="a teacher's licence obeyed by a terminal",
        command="cache info tones",
        code=0,
        told=SHOWN,
        plant=lambda folder: edit(cache_of(folder), lambda entry: entry["teacher"].update(licence=EVIL)),
    )
    yield Case(
        group=4,
        fault="figures obeyed by a terminal",
        command="cache info tones",
        code=0,
        told=SHOWN,
        plant=lambda folder: edit(cache_of(folder), lambda entry: entry["build"].update({EVIL: EVIL})),
    )
    yield Case(
        group=4,
        fault="another teacher's name obeyed by a terminal",
        told=SHOWN,
        command="train tones.toml --run-dir new --set teacher.model=bert2",
        plant=lambda folder: edit(cache_of(folder), lambda entry: entry["teacher"].update(name=EVIL)),
    )
    yield Case(
        group=4,
        fault="a cache's name obeyed by a terminal",
        command="cache info tones",
        told=SHOWN,
        plant=lambda folder: (folder / "caches/names/tones").write_text(EVIL),
    )
    yield Case(
        group=4, fault="an error obeyed by a terminal", command="runs ls", code=0, told=SHOWN, plant=_failed
    )
    yield Case(
        group=4,
        fault="a setting obeyed by a terminal",
        command="runs diff tones again",
        code=0,
        told=SHOWN,
        plant=lambda folder: rewrite_json(folder / "runs/tones/run.json", git_commit=EVIL),
    )
    yield Case(
        group=4,
        fault="a recording's name obeyed by a terminal",
        command="transcribe tones '\x1b[2J.wav'",
        plant=lambda folder: (folder / "\x1b[2J.wav").write_text("no sound"),
    )
    yield Case(
        group=4,
        fault="an id obeyed by a terminal",
        command="cache inspect tones --config tones.toml '\x1b[2J'",
        told=r"\x1b[2J",
    )
    yield Case(
        group=4,
        fault="a word obeyed by a terminal",
        command="compare tones again --split dev",
        code=0,
        plant=_heard_otherwise,
    )


def _local_faults() -> Iterator[Case]:
    for command in (
        "cache unpack nowhere.pack",
        "cache unpack file://{folder}/nowhere.pack",
        "cache unpack .",
        "cache unpack tones.toml",
        "cache pull file://{folder}/nowhere",
        "cache pull file://{folder}/bert",
        "cache push tones file://{folder}/tones.toml/below",
        "cache push tones file:///proc/nowhere",
        "cache pack tones tones.pack",
        "cache pack tones nowhere/tones.pack",
        "data download dev-clean --base-url {folder}/nowhere --data-root new",
        "data download dev-clean --base-url file://{folder}/nowhere --data-root new",
        "export tones /proc/nowhere",
        "report tones --out /proc/nowhere.html",
        "train tones.toml --run-dir /proc/nowhere",
        "train tones.toml --run-dir new --set teacher.model=./nowhere",
    ):
        yield Case(
            group=4, fault="a local fault", command=command, never_told="network", may_write=("new/*.lock",)
        )


def _names() -> Iterator[Case]:
    for name in NAMES:
        shown = f"--name '{name}' --cache-root new"
        yield Case(
            group=4, fault="a name that is none", command=f"cache unpack tones.pack {shown}", told="name"
        )
    for name in NAMES[:3]:
        shown = f"--name '{name}' --cache-root new"
        yield Case(
            group=4, fault="a name that is none", command=f"cache build tones.toml {shown}", told="name"
        )
        yield Case(
            group=4,
            fault="a name that is none",
            command=f"cache pull file://{{folder}}/x {shown}",
            told="name",
        )


def _redirects() -> Iterator[Case]:
    for scheme in ("ftp", "file", "FTP"):
        target = f"{{address}}/302/{scheme}://127.0.0.1:9/etc/hostname"
        for command in (
            f"cache unpack {target} --cache-root new",
            f"cache pull {target} --cache-root new",
            f"train tones.toml --run-dir new --cache {target}",
            f"data download dev-clean --data-root new --base-url {target}",
        ):
            yield Case(group=4, fault="a redirect out of the web", command=command, may_write=("new/*.lock",))


def _signals() -> Iterator[Case]:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        for seconds in (0.6, 2.0, 30.0):
            yield Case(
                group=4, fault=f"{number.name} after {seconds} s", command=LONG, code=STOPPED[number],
                other_codes=(SAVED,), sent=(number, seconds), may_write=("new/*",),
            )  # fmt: skip
        yield Case(
            group=4,
            fault=f"{number.name} after 1 s",
            code=STOPPED[number],
            sent=(number, 1.0),
            command="cache build tones.toml --set cache.top_k=8",
            may_write=("caches/.building/*",),
        )


def _failed(folder: Path) -> None:
    for name in ("final.pt", "result.json"):
        (folder / "runs/tones" / name).unlink()
    rewrite_json(folder / "runs/tones/run.json", state="failed", error=EVIL)


def _heard_otherwise(folder: Path) -> None:
    """Both runs evaluated, and one has heard an escape sequence."""
    import shutil

    shutil.copytree(folder / "runs/tones/evaluation", folder / "runs/again/evaluation")
    path = folder / "runs/again/evaluation/dev.utterances.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["hypothesis"] = "\x1b[2J"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@contextmanager
def redirecting(case: Case) -> Iterator[str]:
    """The address of a server on loopback that redirects /CODE/ADDRESS there; "" where none is asked for."""
    if "{address}" not in case.command:
        yield ""
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, _, address = self.path.removeprefix("/").partition("/")
            self.send_response(int(code))
            self.send_header("Location", address)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
