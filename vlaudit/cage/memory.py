"""How much memory there is, what a process takes of it, and what it may still take."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sharers = 1  # processes side by side that share what is left
_ceiling: tuple[int, int] | None = None  # bytes, and the process whose family may take them together


def bounded(ceiling: int) -> None:
    """From now on this process and all that it starts are killed where they take more bytes than that."""
    global _ceiling
    _ceiling = (ceiling, os.getpid())


def room() -> int:
    """Bytes that this process may still take: what the machine, its container, the process's own limit (``ulimit -v``) and the
    cage leave, shared with those that work beside it."""
    found = [free()]
    if _ceiling is not None:
        found.append(_ceiling[0] - sum(resident(pid) for pid in family(_ceiling[1])))
    return max(0, min(min(found) // sharers, _unreserved()))


def _unreserved() -> int:
    """Bytes of address space that this process may still have (Unix)."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            return most - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + _kept()
    return 1 << 62


def _kept() -> int:
    """Bytes that were freed and that the C library still holds, to be given out again (glibc)."""
    with suppress(OSError, AttributeError):
        ask = ctypes.CDLL(None).mallinfo2
        ask.restype = type("mallinfo2", (ctypes.Structure,), {"_fields_": [(f"field_{i}", ctypes.c_size_t) for i in range(10)]})
        return int(ask().field_8)
    return 0


def trim() -> None:
    """Let the system have the memory that the C library keeps of what was freed (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def free() -> int:
    """Bytes that this machine, or the container on it, has left."""
    found = [1 << 62]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    for most, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        with suppress(OSError, ValueError):
            group = Path("/sys/fs/cgroup")
            found.append(int((group / most).read_text()) - int((group / used).read_text()))
    if len(found) == 1:  # no Linux
        with suppress(ImportError):
            import psutil

            found.append(psutil.virtual_memory().available)
    return max(min(found), 1)


@contextmanager
def most() -> Iterator[Callable[[], int]]:
    """While open, says how many bytes more than before this process has held at once (Linux; elsewhere 0)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the most begins to be counted anew
    before = _held("VmRSS")
    yield lambda: max(0, _held("VmHWM") - before)


def _held(what: str) -> int:
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(f"{what}:")).split()[1])
    return 0


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for one in found:
        with suppress(OSError, ValueError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process holds for itself, without files that are mapped."""
    with suppress(OSError, ValueError, IndexError):
        words = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE")
    return 0
