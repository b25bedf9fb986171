"""Engines behind one DNS name: each address is an engine of its own (a headless service on Kubernetes).

Asked for by writing `dns+http://NAME:PORT`, never guessed: `localhost`, too, has several addresses, all of
one server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

DNS_SCHEME = "dns+http://"

Resolve = Callable[[str, int], Awaitable[frozenset[str]]]
"""(host, port) to IP addresses; raises OSError."""


async def resolve_addresses(host: str, port: int) -> frozenset[str]:
    """Every address of `host`, from the system's resolver.

    Raises:
        OSError: there is none, or no answer.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(str(address[0]) for *_, address in found)


async def engine_urls(dns_url: str, resolve: Resolve) -> frozenset[str]:
    """The engine URLs that a `dns+http://` URL stands for now.

    Raises:
        OSError
    """
    parts = urlsplit(dns_url.removeprefix("dns+"))
    host, port = parts.hostname or "", parts.port or 80
    addresses = await resolve(host, port)
    return frozenset(f"http://[{a}]:{port}" if ":" in a else f"http://{a}:{port}" for a in addresses)
