"""No socket but to what a target names. Closed in the process that does the work; a remote target opens its own way.

An audit hook (PEP 578) sees every ``socket.connect``, ``socket.sendto`` and name lookup of Python code in this process and those
forked from it, whichever library asks. Libraries of the hub are told to be offline too, so that they say so at once, and find no token.
Sockets of the file system stay open: processes of one machine speak through them.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from vlaudit import secrets

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_TOKEN_PATH")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN")

_closed = False
_hooked = False
_open_to_all = 0
_permitted: set[tuple[str, int]] = set()  # host and port
_taken: dict[str, str] = {}  # variables of the environment that were taken away


class NetworkClosed(PermissionError):
    """Something that was audited asked for the network."""


def close() -> None:
    """Refuse every socket of this process and of those forked from it, except what is permitted later. Must come before the
    libraries of the hub are imported."""
    global _closed, _hooked
    _closed = True
    for name in TOKENS:
        if name in os.environ:
            _taken[name] = secrets.take(name)
    for name in OFFLINE:
        if name in os.environ:
            _taken[name] = os.environ[name]
        os.environ[name] = "1"
    if not _hooked:
        _hooked = True
        sys.addaudithook(_hook)


def permit(url: str) -> None:
    """Let this process reach the host and port of a URL, and the proxy that the environment names for it."""
    named = getproxies()
    for address in filter(None, (url, named.get(urlsplit(url).scheme), named.get("all"))):
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if parts.hostname:
            host, port = parts.hostname.lower(), parts.port or (443 if parts.scheme == "https" else 80)
            here = ("127.0.0.1", "::1") if host.rstrip(".").endswith("localhost") else ()  # RFC 6761; no lookup is needed
            _permitted.update((name, port) for name in (host, *here))


@contextmanager
def hub() -> Iterator[None]:
    """While open, models that a user named may be downloaded, with the user's token; not where the user's own environment says
    offline."""
    global _open_to_all
    if not _closed or _user_is_offline():
        yield
        return
    before = {name: os.environ.get(name) for name in (*TOKENS, *OFFLINE)}
    for name in OFFLINE:
        os.environ.pop(name, None)
    os.environ.update(_taken)
    _open_to_all += 1
    constants = _hub_constants()
    if constants is not None:
        constants.HF_HUB_OFFLINE = constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = False
    try:
        yield
    finally:
        _open_to_all -= 1
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if constants is not None:
            constants.HF_HUB_OFFLINE = constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True


def _user_is_offline() -> bool:
    return any(_taken.get(name, "").lower() in {"1", "true", "yes", "on"} for name in OFFLINE[:2])


def _hub_constants() -> Any:
    """The hub library's settings, which it reads once from the environment."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return constants


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event[:7] != "socket." or not _closed or _open_to_all:
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        place, address = arguments[0], arguments[1]
        if getattr(place, "family", None) == getattr(socket, "AF_UNIX", None) or address is None:
            return
        host, port = str(address[0]), int(address[1])
        if not _may_reach(host, port):
            raise NetworkClosed(f"the network is closed: something asked for {host}:{port}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0].decode("ascii", "replace") if isinstance(arguments[0], bytes) else str(arguments[0] or "")
        if host not in ("", "localhost") and not _is_address(host) and host.lower() not in {name for name, _ in _permitted}:
            raise NetworkClosed(f"the network is closed: something asked for {host}")


def _may_reach(host: str, port: int) -> bool:
    if (host.lower(), port) in _permitted:
        return True
    names = [name for name, allowed in _permitted if port == allowed and not _is_address(name)]
    return any(host == found[4][0] for name in names for found in _addresses(name, port))


def _addresses(name: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(name, port)
    except OSError:
        return []


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return True
