"""The program `bert2ctc`: signals are caught before anything heavy is imported, then come the commands."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command that the arguments name; never returns."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the next line imports what it needs
    from pipeline.interruption import catch_signals

    catch_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # what bin/bert2ctc held back is answered here
    from pipeline.cli import main as commands

    commands(prog_name="bert2ctc")


if __name__ == "__main__":
    main()
