"""One request to a server that may be hostile: a deadline over all of it, a largest answer, and where it may travel.

The standard library alone: what pools connections, decodes bodies and follows redirects reads headers and bodies whole, and
counts its time-outs from byte to byte.

- A key travels over https, or in clear to a loopback address. What is one is decided by the address that a name stands for,
  and that very address is asked.
- The proxies of the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, and ``NO_PROXY``) are used, but never for this
  machine.
- No redirect is followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from vlaudit import __version__
from vlaudit.errors import first_line

LARGEST = 8_000_000  # bytes of an answer
_TICK = 0.1  # seconds


@dataclass(frozen=True)
class Reply:
    """What a server answered. Header names are read in any case."""

    status: int
    headers: Message
    body: bytes


class NoReply(Exception):
    """Why there is none. The message completes a sentence that begins with the server's name; ``again``: asking again may help."""

    def __init__(self, message: str, cure: str = "", *, again: bool = False) -> None:
        super().__init__(message)
        self.message, self.cure, self.again = message, cure, again


def post(url: str, payload: bytes, key: str | None, seconds: float, stop: threading.Event) -> Reply:
    """The answer to a JSON payload. Name look-up, connecting and every byte have ``seconds`` in all, whatever the server does;
    setting ``stop`` ends it at once. Raises NoReply."""
    exchange = _Exchange(urlsplit(url), payload, key, seconds)
    threading.Thread(target=exchange.run, daemon=True).start()  # a name look-up cannot be ended, only left behind
    deadline = time.monotonic() + seconds
    while not exchange.done.wait(max(0.0, min(_TICK, deadline - time.monotonic()))):
        if stop.is_set() or time.monotonic() >= deadline:
            exchange.abandon()
            raise _late(seconds)
    if isinstance(exchange.outcome, Reply):
        return exchange.outcome
    raise exchange.outcome


def _late(seconds: float) -> NoReply:
    return NoReply(f"did not answer within {seconds:.3g} s", "Try again later.", again=True)


class _Exchange:
    """A request and its answer, in a thread of its own."""

    outcome: Reply | BaseException

    def __init__(self, url: SplitResult, payload: bytes, key: str | None, seconds: float) -> None:
        self._url, self._payload, self._key, self._seconds = url, payload, key, seconds
        self._secure = url.scheme == "https"
        self._port = url.port or (443 if self._secure else 80)
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None  # which the connection forgets once an answer without a length has begun
        self._left = False
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self.outcome = self._talk()
        except ssl.SSLCertVerificationError as error:
            self.outcome = NoReply(
                f"has a certificate that is not trusted ({error.verify_message})",
                "SSL_CERT_FILE names a file with further authorities.",
            )
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The socket's own time, which is over a moment before or after that of whoever waits; the system's has a number.
            waited = isinstance(error, TimeoutError) and error.errno is None
            self.outcome = _late(self._seconds) if waited else NoReply(f"gives no answer: {first_line(error)}", "Check its address, or try later.", again=True)
        except BaseException as error:  # noqa: BLE001 (raised again where it was asked for)
            self.outcome = error
        finally:
            self.done.set()
            self._close()

    def abandon(self) -> None:
        """End it from another thread."""
        self._left = True
        for each in (self._socket, getattr(self._connection, "sock", None)):
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # wakes a read; closing would not

    def _talk(self) -> Reply:
        host = str(self._url.hostname)
        named = _named_proxy(self._url.scheme, f"{host}:{self._port}")
        near = [] if self._secure and not named else _addresses(host, self._port)
        here = bool(near) and all(_is_loopback(address) for address in near)
        own = bool(near) and all(_is_loopback(address) or address.is_unspecified for address in near)
        proxy = _parsed_proxy(named) if named and not own else None
        headers = {
            "Host": self._url.netloc, "Content-Type": "application/json", "Accept": "application/json",
            "Accept-Encoding": "identity", "User-Agent": f"vlaudit/{__version__}", "Connection": "close",
        }  # fmt: skip
        if self._key and (self._secure or here):
            headers["Authorization"] = f"Bearer {self._key}"
        path = self._url.path
        if proxy is not None and not self._secure:
            path, headers = self._url.geturl(), headers | _proxy_login(proxy)
        connection = self._connect([str(address) for address in near] if here and not self._secure else [host], proxy)
        with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it had read all
            connection.request("POST", path, self._payload, headers)
        response = connection.getresponse()
        body = response.read(LARGEST + 1)
        if len(body) > LARGEST:
            raise NoReply(f"sends more than {LARGEST / 1e6:g} MB in one answer")
        if response.length:
            raise NoReply("broke off in the middle of its answer", "Try again later.", again=True)
        coding = response.headers.get("Content-Encoding", "identity")
        if coding.lower() != "identity":
            raise NoReply(f"answers in the encoding '{coding[:20]}', which was not asked for")
        return Reply(response.status, response.headers, body)

    def _connect(self, places: list[str], proxy: SplitResult | None) -> http.client.HTTPConnection:
        """A connection to the first place that takes one. It is made and ended here alone, so a request that was left behind
        sends nothing."""
        problem: OSError = OSError("no address")
        for place in places:
            host, port = (str(proxy.hostname), proxy.port or 80) if proxy else (place, self._port)
            connection: http.client.HTTPConnection
            if self._secure:
                connection = http.client.HTTPSConnection(host, port, timeout=self._seconds, context=_tls())
                if proxy:
                    connection.set_tunnel(place, self._port, _proxy_login(proxy))
            else:
                connection = http.client.HTTPConnection(host, port, timeout=self._seconds)
            self._connection = connection
            try:
                connection.connect()
            except OSError as error:
                problem = error
                continue
            self._socket = connection.sock
            if self._left:
                break
            return connection
        raise problem

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(OSError):
                self._connection.close()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(host: str, port: int) -> list[_Address]:
    """What a name stands for; nothing where that is not known here. ``localhost`` is this machine, whatever a name server says
    (RFC 6761)."""
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(entry[4][0])) for entry in found]


def _is_loopback(address: _Address) -> bool:
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _named_proxy(scheme: str, place: str) -> str | None:
    """The environment's proxy for a ``host:port``."""
    proxies = getproxies()
    return None if proxy_bypass(place) else proxies.get(scheme) or proxies.get("all")


def _parsed_proxy(named: str) -> SplitResult:
    """Raises NoReply for a proxy that cannot be used."""
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise NoReply(
            f"would be asked through a proxy of the kind '{proxy.scheme}', which is not supported",
            "Name an http:// proxy in HTTPS_PROXY, or the server in NO_PROXY.",
        )
    return proxy


def _proxy_login(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
