"""A call bounded in time and memory: it runs in a forked process that is killed when it takes too much.

For foreign programs that are asked often and answer with little, such as a chat template: the process is forked once and then answers
call after call. An alarm or a trace function within one process would not do: Python looks at them between its own steps, and
``9**9**9`` or a backtracking pattern is one step.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

from vlaudit.cage import Stopped, foreign_words

MEMORY = 1 << 30  # bytes that a call may take beyond what the process has


class Cell:
    """``function``, called in another process. Arguments and result are pickled by this process and its own child."""

    def __init__(self, function: Callable[..., Any], seconds: float, memory: int = MEMORY) -> None:
        self._function, self._seconds, self._memory = function, seconds, memory
        self._mine: tuple[int, int, Connection] | None = None  # the process that forked it, its own, and the way to it

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns. Raises Stopped where it takes too long, too much memory or ends its process, RuntimeError
        with its own words where it raises."""
        if not hasattr(os, "fork"):
            return self._function(*arguments)
        connection = self._connection()
        try:
            connection.send(arguments)
            if not connection.poll(self._seconds):
                raise Stopped(f"did not end within {self._seconds:g} s")
            good, said = connection.recv()
        except BaseException as error:  # Ctrl-C too: an answer that comes later would be taken for the next call's
            self.close()
            if isinstance(error, EOFError | OSError):
                raise Stopped("ended the process that ran it") from error
            raise
        if good == "memory":
            raise Stopped(f"took more than {self._memory / 1e9:.1f} GB of memory")
        if good == "error":
            raise RuntimeError(said)
        return said

    def close(self) -> None:
        """End the process."""
        if self._mine is not None and self._mine[0] == os.getpid():
            with suppress(OSError):
                os.kill(self._mine[1], signal.SIGKILL)
                os.waitpid(self._mine[1], 0)
            self._mine[2].close()
        self._mine = None

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def _connection(self) -> Connection:
        if self._mine is None or self._mine[0] != os.getpid():  # a fork of this process needs one of its own
            here, there = Pipe()
            pid = os.fork()
            if pid == 0:
                here.close()
                self._serve(there)
            there.close()
            self._mine = (os.getpid(), pid, here)
        return self._mine[2]

    def _serve(self, connection: Connection) -> None:
        """The other process's life."""
        try:
            gc.disable()  # what the fork has copied is not for it to tidy up
            os.closerange(3, connection.fileno())  # nobody waits in vain for the end of what another holds open too
            os.closerange(connection.fileno() + 1, 4096)
            with suppress(ValueError):  # forked from another thread than the first
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
            _bound_memory(self._memory)
            while True:
                arguments = connection.recv()
                try:
                    answer = ("value", self._function(*arguments))
                except MemoryError:
                    answer = ("memory", "")
                except BaseException as error:  # noqa: BLE001 (whatever foreign code raises)
                    answer = ("error", foreign_words(error))
                connection.send(answer)
        finally:
            os._exit(0)


def _bound_memory(more: int) -> None:
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))
