"""Fetches a pushed cache object by object; what arrived whole stays, and the next pull goes on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teacher_cache.sharing.file_list import Contents, Counting, uncounted
from teacher_cache.sharing.object_store import remote_contents
from teacher_cache.sharing.receive import Arrival, Say, keep_whole_files, land, receive_file
from teacher_cache.sharing.transport import Incoming, below, file_system, open_object, shown, told


def pull_cache(url: str, root: Path, say: Say, counting: Counting = uncounted) -> Arrival:
    """Fetch what is missing of the cache below a prefix, verify the whole and publish it.

    counting : opens a count of so many bytes in all, those that are missing here
    Raises CacheError, and publishes nothing, for a prefix without a manifest and for whatever differs
    from the list that was pushed.
    """
    contents = remote_contents(url)
    system, prefix = file_system(url)

    def receive(folder: Path) -> None:
        whole = keep_whole_files(folder, contents)
        if whole:
            say(f"{_told(whole, contents)} had arrived before and are kept")
        missing = {name: facts for name, facts in contents.files.items() if name not in whole}
        with (
            counting(sum(facts.bytes for facts in missing.values())) as count,
            _telling(whole, contents, say),
        ):
            for name, facts in missing.items():
                source = below(url, name)
                with told(source):
                    stream = open_object(system, below(prefix, name))
                with stream:
                    receive_file(Incoming(stream, source), folder / name, facts, shown(source), count)
                whole.add(name)

    return land(root, contents, shown(url), receive, say, goes_on=True)


@contextmanager
def _telling(whole: set[str], contents: Contents, say: Say) -> Iterator[None]:
    """Say what stays of a pull that breaks off, whatever broke it."""
    try:
        yield
    except BaseException:
        say(f"{_told(whole, contents)} are here and stay; the same command fetches the others")
        raise


def _told(whole: set[str], contents: Contents) -> str:
    megabytes = sum(contents.files[name].bytes for name in whole) / 1e6
    return f"{len(whole):,} of {len(contents.files):,} objects ({megabytes:,.1f} MB)"
