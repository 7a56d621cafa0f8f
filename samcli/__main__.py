"""The program `samcli`, and `python -m samcli`."""

import contextlib
import os
import sys


def _open_streams() -> None:
    """Give standard streams that the shell closed (2>&-) a place, so that no file gets their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def run() -> int:
    """Run the command line and return its exit code; quietly 130 for Ctrl-C, also while modules load."""
    try:
        _open_streams()
        from samcli.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
