"""Sockets at one address for several processes; the kernel spreads connections over those that listen."""

from __future__ import annotations

import socket


def shared_socket(host: str, port: int) -> socket.socket:
    """A socket bound to an address that other sockets of this user may be bound to, too.

    Raises:
        OSError: the address is taken by somebody who doesn't share it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setblocking(False)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
