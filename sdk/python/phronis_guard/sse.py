"""Server-sent events out of bytes, within bounds."""

from __future__ import annotations

import json
from typing import Any, Iterator, List, Tuple

from .cache import ProtocolError

#: Bytes of one event. A snapshot of 50 000 halted agents has about 10 MB.
MAX_EVENT = 64 << 20


class Parser:
    """Takes pieces as they come and gives events: name and JSON.

    Follows the format of the HTML standard but for `\\r` alone as an end of line, which no host of ours sends.
    """

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._max = max_event
        self._open: List[bytes] = []
        self._size = 0
        self._name = b""
        self._data: List[bytes] = []

    def feed(self, piece: bytes) -> Iterator[Tuple[str, Any]]:
        """Events that end in this piece."""
        self._size += len(piece)
        *lines, rest = piece.split(b"\n")
        for line in lines:
            if self._open:
                line = b"".join(self._open) + line
                self._open.clear()
            if line.endswith(b"\r"):
                line = line[:-1]
            if line:
                self._field(line)
                continue
            name, data = self._name, self._data
            self._name, self._data, self._size = b"", [], len(rest)
            if data:
                yield name.decode("utf-8", "replace"), _json(b"\n".join(data))
        if rest:
            self._open.append(rest)
        if self._size > self._max:
            raise ProtocolError(f"an event of more than {self._max} bytes")

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"event":
            self._name = value
        elif name == b"data":
            self._data.append(value)
        elif not name:
            # A comment: nothing of it stays, so it does not count for the bound.
            self._size = sum(map(len, self._data))


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"data that is not JSON: {error}") from None
