"""No socket but to what a target names, whichever library asks."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def server() -> Iterator[int]:
    """A port of the loopback at which connections are taken."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def closed(code: str, **environment: str) -> str:
    """What a program prints that runs in a closed process."""
    program = f"import os, socket\nfrom vlaudit.cage import network\nos.environ.update({environment!r})\nnetwork.close()\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def test_a_socket_is_refused_and_a_permitted_one_is_not(server: int) -> None:

    def asks(host: str, *permitted: str) -> str:
        permits = "".join(f"network.permit('http://{place}/v1')\n" for place in permitted)
        return closed(f"{permits}socket.create_connection(('{host}', {server}), 5); print('reached')")

    assert "network is closed" in asks("127.0.0.1")
    assert "network is closed" in asks("localhost")
    assert "reached" in asks("127.0.0.1", f"127.0.0.1:{server}")
    assert "reached" in asks("127.0.0.1", f"localhost:{server}"), "a name that was permitted may be reached by its address"
    assert "network is closed" in asks("127.0.0.1", f"127.0.0.1:{server + 1}"), "another port is another server"


@pytest.mark.parametrize(
    "asks",
    [
        "socket.getaddrinfo('secret.example.org', 443)",
        "socket.gethostbyname('secret.example.org')",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'secret', ('192.0.2.1', 53))",
        "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=3)",
        "import urllib.request; urllib.request.build_opener(urllib.request.ProxyHandler({'http': 'http://127.0.0.1:9'})).open('http://x/')",
        "import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
        "os.fork() == 0 and socket.create_connection(('192.0.2.1', 80), 3); os.wait()",
    ],
)
def test_ways_out_are_refused(asks: str) -> None:
    assert "network is closed" in closed(asks)


def test_processes_of_this_machine_may_speak(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert "fine" in closed("a, b = socket.socketpair(); a.send(b'x'); from multiprocessing import Pipe; Pipe(); print('fine')")


def test_the_hub_is_told_to_be_offline_and_finds_no_token() -> None:
    asks = (
        "from huggingface_hub import constants, get_token, snapshot_download\n"
        "print(constants.is_offline_mode(), get_token())\n"
        "with network.hub(): print(constants.is_offline_mode(), get_token())\n"
        "print(constants.is_offline_mode(), get_token(), 'HF_TOKEN' in os.environ)"
    )
    said = closed(asks, HF_TOKEN="hf_secret", HF_HUB_OFFLINE="0", HF_HOME="nowhere")
    assert said.splitlines() == ["True None", "False hf_secret", "True None False"]


def test_a_user_who_is_offline_stays_so() -> None:
    asks = "from huggingface_hub import constants\nwith network.hub(): print(constants.is_offline_mode())"
    assert closed(asks, HF_HUB_OFFLINE="1").strip() == "True"


def test_a_download_that_the_user_named_is_let_through(server: int) -> None:
    asks = f"with network.hub(): socket.create_connection(('127.0.0.1', {server}), 5); print('reached')\n"
    after = f"socket.create_connection(('127.0.0.1', {server}), 5)"
    said = closed(asks + after, HF_HUB_OFFLINE="")
    assert "reached" in said and "network is closed" in said


def test_a_token_that_was_taken_away_is_still_struck_out() -> None:
    token = "hf_0123456789abcdef"
    said = closed("from vlaudit.secrets import redact; print('HF_TOKEN' in os.environ, redact('the hub says ' + os.environ['SAID']))",
                  HF_TOKEN=token, SAID=token)  # fmt: skip
    assert said.strip() == "False the hub says [redacted]"
