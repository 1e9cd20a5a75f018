"""Commands in processes forked from one that has imported everything: quick while cases are being written.

A verdict before a release is taken of commands started afresh; this leaves out the start of Python alone.
Reads one JSON object a line (where, words, files for output and errors), answers the exit code of each.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

PRELOADED = (
    "pipeline.cli", "pipeline.stages.train", "pipeline.stages.cache", "pipeline.stages.data",
    "pipeline.stages.evaluate", "pipeline.stages.runs", "pipeline.stages.share", "pipeline.stages.inspect",
    "pipeline.stages.compare", "pipeline.stages.report", "pipeline.stages.transcribe",
    "pipeline.corpus.prepare", "pipeline.experiments.run", "student.training.trainer",
    "student.inference.evaluation", "student.inference.export", "teacher_cache.store.verify",
    "teacher_cache.sharing.archive", "teacher_cache.sharing.object_store", "sentencepiece", "torchaudio",
)  # fmt: skip


def serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request)
        print(json.dumps({"pid": child}), flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code}), flush=True)


def _run(request: dict[str, object]) -> None:
    """Become that command; never returns."""
    for descriptor, name in ((0, os.devnull), (1, request["output"]), (2, request["errors"])):
        opened = os.open(str(name), os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
    os.chdir(str(request["where"]))
    words = [str(word) for word in request["words"]]  # type: ignore[attr-defined]
    sys.argv = ["bert2ctc", *words]
    sys.path[:] = [entry for entry in sys.path if entry]
    code = 70
    try:
        from pipeline.__main__ import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    assert Path(__file__).is_file()
    serve()
