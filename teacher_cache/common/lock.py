"""One builder per fingerprint: a lock file that names its owner, and yields only where that owner is dead."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from teacher_cache.common.small_files import NoSuchFile, parse_object, read_text
from teacher_cache.common.terminal import say as say_to_people
from teacher_cache.common.typed import Fault, typed
from teacher_cache.errors import CacheError

GUARD = ".guard"


@dataclass(frozen=True, slots=True)
class LockOwner:
    """A process by host, id and start, so that a process id used again is not taken for its predecessor."""

    host: str
    pid: int
    started: str

    @property
    def is_dead(self) -> bool:
        """True where this host has no such process; another host's process is never called dead."""
        return self.host == socket.gethostname() and process_start(self.pid) != self.started


def process_start(pid: int) -> str:
    """When a process of this host started, "" where there is none; comparable, not readable."""
    if Path("/proc/self/stat").exists():
        try:
            after_name = read_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        except Fault:
            return ""
        if after_name[0] in "ZX":  # ended, and not yet collected by its parent
            return ""
        boot = Path("/proc/sys/kernel/random/boot_id")
        return f"{read_text(boot).strip() if boot.exists() else ''}:{after_name[19]}"
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()


def read_owner(path: Path) -> LockOwner | None:
    """Who holds the lock; None where nobody does. CacheError for a file that names nobody."""
    try:
        return typed(LockOwner, parse_object(read_text(path)))
    except NoSuchFile:
        return None
    except Fault as fault:
        raise CacheError(
            f"{path} names no owner ({fault}); delete it if no build runs, then rerun `bert2ctc cache build`"
        ) from None


class BuildLock:
    """Holds `path` while in the `with` block; CacheError where a living or a foreign process holds it.

    A lock whose owner died on this host is replaced, and `say` is called with that.
    """

    def __init__(self, path: Path, say: Callable[[str], None] | None = None) -> None:
        self.path = path
        self._say = say or say_to_people
        self._me = LockOwner(socket.gethostname(), os.getpid(), process_start(os.getpid()))

    def __enter__(self) -> BuildLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self._claim():
                # Keeps this host's processes from replacing each other's fresh locks.
                with alone(self.path.parent / GUARD):
                    self._replace_the_dead()
        except OSError as error:
            raise CacheError(
                f"{self.path}: cannot lock ({error.strerror}); choose a writable cache root on a POSIX file "
                "system with BERT2CTC_CACHE"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if read_owner(self.path) == self._me:
            self.path.unlink()

    def _claim(self) -> bool:
        """Link a finished file into place: it either appears with its owner's name or not at all."""
        written = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            written.write_text(json.dumps(asdict(self._me)) + "\n", encoding="utf-8")
            os.link(written, self.path)
        except FileExistsError:
            return False
        finally:
            written.unlink(missing_ok=True)
        return True

    def _replace_the_dead(self) -> None:
        owner = read_owner(self.path)
        if owner is not None:
            if not owner.is_dead:
                raise CacheError(
                    f"{self.path} is held by process {owner.pid} on {owner.host}; wait for it, or delete the "
                    "file if that process is gone"
                )
            self._say(f"{self.path.name}: process {owner.pid} died here and left its lock; taken over")
            self.path.unlink()
        if not self._claim():
            raise CacheError(f"{self.path} was taken this moment; wait for that build, then run it again")


@contextmanager
def alone(guard: Path) -> Iterator[None]:
    """Wait until no other process of this host holds `guard`, and hold it; who dies lets go of it.

    The file is made and stays. Raises OSError where it cannot be.
    """
    with guard.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
