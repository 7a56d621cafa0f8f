"""JSON text decoded a value at a time by Python's own decoder: a list of any length takes little memory.

ijson would do the same, but it stops at the NaN that Python writes, does not say which value is damaged, and
takes all the memory there is for lists nested deeply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

_PIECE = 2**20  # characters read at once
_AFTER = frozenset(",:]} \t\r\n")  # a value
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonStream:
    """Values of a text, one after the other. Raises ValueError and RecursionError as `json.loads` does."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
            else:
                whole = self._text[end : end + 1] in _AFTER  # a number may go on in the next piece
                if whole or not self._more():
                    self._at = end
                    return value

    def skip(self) -> None:
        """Pass over the next value; of a list, an element at a time."""
        if self.peek() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()

    def elements(self) -> Iterator[Any]:
        """The elements of the list that is next."""
        for _ in self._between("[", "]"):
            yield self.value()

    def members(self) -> Iterator[str]:
        """The keys of the object that is next; the caller takes the value of each before going on."""
        for _ in self._between("{", "}"):
            key = self.value()
            self._take(":")
            yield key

    def _between(self, start: str, end: str) -> Iterator[None]:
        self._take(start)
        while self.peek() != end:
            yield
            if self.peek() != end:
                self._take(",")
        self._take(end)

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise json.JSONDecodeError(f"Expecting '{character}'", "", 0)
        self._at += 1

    def _more(self) -> bool:
        """Read on, twice as much when a value is long. False at the end of the file."""
        rest = self._text[self._at :]
        piece = self._file.read(max(_PIECE, len(rest)))
        self._text, self._at = rest + piece, 0
        return bool(piece)
