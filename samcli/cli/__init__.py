"""The command line: a module per command; each parses, makes one library call, and reports."""

from samcli.cli.app import main

__all__ = ["main"]
