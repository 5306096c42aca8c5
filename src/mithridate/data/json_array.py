"""Cuts a JSON array into its elements while it streams, without parsing them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mithridate.data.row_faults import Rejected

_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\\]')


class ElementCutter:
    """Finds where the elements of a JSON array begin and end.

    Only strings and brackets are followed: whether an element is valid JSON is for its parser to say.
    All structural characters are ASCII, so that bytes of UTF-8 text can be searched undecoded.

    Attributes:
        line: Line of the next byte, 1-based.
    """

    def __init__(self, limit: int):
        self.line = 1
        self._limit = limit
        self._depth = 0
        self._in_string = False
        # Kept between chunks, as a chunk may end right behind a backslash.
        self._escaped = False
        self._closed = False
        self._count = 0
        self._first = 0  # line of the current element; 0 before its first byte
        self._size = 0
        self._kept = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield (first line, bytes) of each element that ends in the chunk; None for one over the limit.

        Raises:
            Rejected: The brackets do not form one array.
        """
        place = 0
        while place < len(chunk):
            # The byte behind a backslash is passed over: it may be a quote that ends nothing.
            match = None if self._escaped else (_INSIDE if self._in_string else _OUTSIDE).search(chunk, place)
            end = match.start() if match else place + 1 if self._escaped else len(chunk)
            self._take(chunk[place:end])
            self._escaped = False
            if match:
                yield from self._turn(match[0])
                end += 1
            place = end

    def close(self) -> None:
        """Check that the array has ended.

        Raises:
            Rejected: The file ends inside the array.
        """
        if not self._closed:
            raise Rejected("the end of the file inside the JSON array", "a closing ]")

    def _turn(self, mark: bytes) -> Iterator[tuple[int, bytes | None]]:
        if self._in_string:
            self._in_string = mark != b'"'
            self._escaped = mark == b"\\"
            self._take(mark)
        elif mark == b"," and self._depth == 1:
            yield self._element()
        elif mark in b"]}" and self._depth == 1:
            yield from self._end(mark)
        else:
            self._nest(mark)

    def _nest(self, mark: bytes) -> None:
        self._in_string = mark == b'"'
        self._depth += (mark in b"[{") - (mark in b"]}")
        # `_closed` tells a second array behind the first, which `_take` then refuses.
        if self._depth == 1 and mark == b"[" and not self._closed:
            return  # the bracket that opens the array itself
        self._take(mark)

    def _end(self, mark: bytes) -> Iterator[tuple[int, bytes | None]]:
        if mark == b"}":
            raise Rejected("a } without its {", "a closing ]")
        if self._count or self._size:  # an empty array has no element, not even an empty one
            yield self._element()
        self._depth = 0
        self._closed = True

    def _element(self) -> tuple[int, bytes | None]:
        first = self._first or self.line
        # One over the limit was followed to its end without being kept, so that those behind it can still be read.
        raw = None if self._size > self._limit else bytes(self._kept).rstrip()
        self._count += 1
        self._clear()
        return first, raw

    def _take(self, data: bytes) -> None:
        # Blanks before an element do not belong to it; its line is that of its first byte.
        body = data if self._size else data.lstrip()
        if body and self._closed:
            raise Rejected("text after the JSON array", "the end of the file")
        if body and not self._size:
            self._first = self.line + data[: len(data) - len(body)].count(b"\n")
        self.line += data.count(b"\n")
        self._size += len(body)
        if self._size <= self._limit:
            self._kept += body

    def _clear(self) -> None:
        self._first = 0
        self._size = 0
        self._kept = bytearray()
