"""A web server on loopback that serves files and no listings, and breaks what it is told to break."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar


@dataclass
class HttpFolder:
    """faults : path below the folder to "cut", "corrupt", "stall" or a status, for its next request alone

    requests : the paths that were asked for, in order     queries : what stood behind their question marks
    """

    folder: Path
    url: str = ""
    faults: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    queries: set[str] = field(default_factory=set)
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name, _, query = handler.path.removeprefix("/").partition("?")
        self.requests.append(name)
        self.queries.add(query)
        fault, file = self.faults.pop(name, ""), self.folder / name
        if fault.isdigit() or not file.is_file():
            handler.send_error(int(fault or 404))
            return
        body = bytearray(file.read_bytes())
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if fault == "corrupt":
            body[len(body) // 2] ^= 4
        if fault in ("cut", "stall"):
            del body[len(body) // 2 :]
            handler.close_connection = True
        handler.wfile.write(body)
        handler.wfile.flush()
        if fault == "stall":
            self.stalled.set()
            self.released.wait(600)


@contextmanager
def served(folder: Path) -> Iterator[HttpFolder]:
    """The folder at `.url` while in the `with` block."""
    state = HttpFolder(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version: ClassVar[str] = "HTTP/1.1"  # connections stay open, as with most servers

        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield state
        finally:
            state.released.set()
            http.shutdown()
            thread.join()
