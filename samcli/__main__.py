"""The program `samcli`, and `python -m samcli`."""

import sys


def run() -> int:
    """Run the command line and return its exit code; quietly 130 for Ctrl-C, also while modules load."""
    try:
        from samcli.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
