"""Errors meant for people: one line that names the file and the remedy, with the exit code it causes."""

from __future__ import annotations


class SamcliError(Exception):
    """Something the user can act on. The command line prints `error: <message>` and exits with `code`."""

    code = 1


class WeightsError(SamcliError):
    """Weights are missing or unverified; the message names the exact command that gets them."""

    code = 4


class StopError(SamcliError):
    """Ends a batch: no later item would fare better, or going on would do harm."""


class DiskFullError(StopError):
    """An output found no space."""


class RefusedError(SamcliError):
    """A file is not at fault: with another limit, more memory or an extra package it can be read."""


class LeftAloneError(SamcliError):
    """An item of a batch fails without being tried, and its outputs stay as they are.

    earlier: it failed in an earlier run, and this is what was said then.
    """

    def __init__(self, reason: str, *, earlier: bool = False) -> None:
        super().__init__(reason)
        self.earlier = earlier


class SamcliNote(UserWarning):
    """The work goes on, but the user should know. The library warns; the command line says it once."""
