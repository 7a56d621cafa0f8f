"""Writes the command-line reference, docs/cli.md, from the app itself: `python -m samcli.cli.reference`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer

from samcli.cli.app import app

INTRODUCTION = """\
# Command line

Written by `make docs` from the commands themselves; `samcli COMMAND --help` says the same.

"""
PIPE = "\\|"  # within a table


def reference() -> str:
    """The reference in Markdown: each command with its usage, text, arguments and options."""
    return INTRODUCTION + "\n".join(_sections(typer.main.get_command(app), "samcli", None))


def _sections(command: Any, path: str, parent: Any) -> Iterator[str]:
    """command, parent: Typer's own command and context objects, whose classes it keeps to itself."""
    context = command.make_context(path, [], parent=parent, resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {path}\n"
    yield f"    {path} {usage}\n"
    yield f"{_escaped(command.help)}\n"
    yield "| | |\n|---|---|"
    for param in command.get_params(context):
        names, text = param.get_help_record(context)
        if param.param_type_name == "argument":
            names = names.partition(" <")[0]  # its type, which says nothing to a reader
        yield f"| `{names.replace('|', PIPE)}` | {_escaped(text).replace('|', PIPE)} |"
    yield ""
    for name, child in getattr(command, "commands", {}).items():
        yield from _sections(child, f"{path} {name}", context)


def _escaped(text: str) -> str:
    return inspect.cleandoc(text).replace("<", "\\<")


if __name__ == "__main__":
    sys.stdout.write(reference())
