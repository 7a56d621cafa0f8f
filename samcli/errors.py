"""Errors meant for people: one line that names the file and the remedy, with the exit code it causes."""

from __future__ import annotations


class SamcliError(Exception):
    """Something the user can act on. The command line prints `error: <message>` and exits with `code`."""

    code = 1


class WeightsError(SamcliError):
    """Weights are missing or unverified; the message names the exact command that gets them."""

    code = 4


class DiskFullError(SamcliError):
    """An output found no space. A batch stops at it: no later item would fare better."""


class SamcliNote(UserWarning):
    """The work goes on, but the user should know. The library warns; the command line says it once."""
