"""Server-sent events, as a client reads them."""

from __future__ import annotations


class Events:
    """Cuts the data of events out of a body, wherever its parts end (WHATWG HTML, 9.2.6).

    Works on bytes: no UTF-8 sequence holds a byte of a line's end, so none can be cut wrongly.
    """

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, part: bytes) -> list[bytes]:
        """The data of every event that `part` completes, in order."""
        if self._after_cr and part.startswith(b"\n"):
            part = part[1:]
        if not part:
            return []
        self._after_cr = part.endswith(b"\r")
        lines = (self._tail + part).splitlines(keepends=True)
        self._tail = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        events = []
        for line in lines:
            line = line.rstrip(b"\r\n")
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def end(self) -> list[bytes]:
        """What the body's end completes: some servers leave the last event's empty line out."""
        return self.feed(b"\n\n")
