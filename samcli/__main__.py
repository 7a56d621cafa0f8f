"""The program `samcli`, and `python -m samcli`."""

import contextlib
import os
import sys
import threading


def _open_streams() -> None:
    """Give standard streams that the shell closed (2>&-) a place, so that no file gets their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _leave_threads(code: int) -> None:
    """End here when a thread still waits for input or a disk: Python's own end would wake it to a crash."""
    from samcli.batch import THREADS

    if any(thread.name == THREADS for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def run() -> int:
    """Run the command line and return its exit code; quietly 130 for Ctrl-C, also while modules load."""
    try:
        _open_streams()
        from samcli.cli import main

        code = main()
        _leave_threads(code)
        return code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
