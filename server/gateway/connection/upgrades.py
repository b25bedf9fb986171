"""Requests that offer another protocol, HTTP/2 for the most part, are ordinary requests (RFC 9110, 7.8).

httptools takes what follows such a head for the other protocol: the request would lose its body. So the head
is read again without its offer.
"""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class IgnoresUpgrades(HttpToolsProtocol):
    """Costs next to nothing as long as nobody offers anything."""

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but for upgrades."""
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            reason = "Invalid HTTP request received."
            self.logger.warning(reason)
            self.send_400_response(reason)

    def on_headers_complete(self) -> None:
        if not self._is_offered():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._is_offered():
            super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        unread = memoryview(data)
        while unread:
            try:
                self.parser.feed_data(unread)
                return
            except httptools.HttpParserUpgrade as upgrade:
                unread = unread[upgrade.args[0] :]
                if not self._is_offered():
                    # CONNECT: what follows is no request.
                    self._unsupported_upgrade_warning()
                    return
                self._read_head_again()

    def _is_offered(self) -> bool:
        return (
            self.parser.should_upgrade()
            and self.parser.get_method() != b"CONNECT"
            and any(name == b"upgrade" for name, _ in self.headers)
        )

    def _read_head_again(self) -> None:
        lines = [
            b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        # Another parser: this one reads nothing more if the connection is to be closed.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))
