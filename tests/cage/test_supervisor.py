"""Whatever ends the process that does the work, the code is one that says so. The work here is a few lines each; whole scans are
in tests/cli/test_ends.py."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.patience import patience
from vlaudit.cage import supervisor

HEAD = "import os, signal, sys, time\nfrom vlaudit import cage\nfrom vlaudit.cage import supervisor\n"
TAIL = "\nprint('exit', supervisor.supervise(work), flush=True)"


def start(work: str, head: str = "") -> subprocess.Popen[str]:
    lines = "\n".join(f"    {line}" for line in work.splitlines())
    program = f"{HEAD}{head}\ndef work():\n{lines}{TAIL}"
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job inherits it ignored
    )  # fmt: skip


def ends(work: str, head: str = "") -> tuple[int, str]:
    """The code and all that was printed."""
    out, _ = start(work, head).communicate(timeout=60)
    return int(out.rsplit("exit ", 1)[1].split()[0]), out


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_a_code_that_the_work_returns_is_the_code(code: int) -> None:
    assert ends(f"return {code}")[0] == code


@pytest.mark.parametrize(
    "work", ["os._exit(0)", "os._exit(1)", "os.kill(os.getpid(), 9)", "os.abort()", "raise SystemExit(0)", "raise GeneratorExit"]
)
def test_another_end_is_never_zero_or_one(work: str) -> None:
    assert ends(work)[0] == 3


def test_zero_of_a_scan_needs_its_report() -> None:
    scan = "if cage.ended: cage.say(report=True); return 3\ncage.say(folder='out')\n"
    assert ends(scan + "return 0")[0] == 3
    assert ends(scan + "cage.say(report=True)\nreturn 0")[0] == 0


WAITS = "if cage.ended:\n    print('ended:', cage.ended.reason, cage.ended.loading, cage.ended.only_say, flush=True)\n    cage.say(report=True)\n    return 3\n"


def test_what_hangs_is_ended_after_its_time_and_reported() -> None:
    then = time.monotonic()
    code, said = ends(WAITS + "cage.say(folder='out', until=time.monotonic() + 1, phase='load', what='hf:x')\n9 ** 9 ** 9")
    assert code == 3 and "ended: the time of --max-time is up while hf:x was loaded True False" in said
    assert time.monotonic() - then < patience(8)
    code, said = ends(WAITS + "cage.say(folder='out', phase='load', what='hf:x', limit=0.5)\ntime.sleep(1000)")
    assert "hf:x did not end in the time that it may take" in said and code == 3


def test_a_report_that_hangs_too_is_made_without_judges() -> None:
    head = "supervisor.JUDGING = 0.5"
    work = "if cage.ended and not cage.ended.only_say: time.sleep(1000)\n" + WAITS + "cage.say(folder='o', until=time.monotonic())\ntime.sleep(1000)"
    code, said = ends(work, head)
    assert code == 3 and "False True" not in said.split("ended:")[0] and said.count("ended:") == 1


def test_judging_has_time_beyond_the_time() -> None:
    assert ends("cage.say(folder='o', phase='judge', until=time.monotonic())\ntime.sleep(1)\ncage.say(report=True)\nreturn 1")[0] == 1


def test_memory_has_a_ceiling_and_a_worker_is_ended_alone() -> None:
    head = "supervisor.memory.free = lambda: 300_000_000"
    code, said = ends("x = bytearray(600_000_000)\ntime.sleep(30)", head)
    assert code == 3 and "memory" in said
    work = "pid = os.fork()\nif pid == 0:\n    x = bytearray(600_000_000)\n    time.sleep(30)\nreturn 0 if os.waitpid(pid, 0)[1] == 9 else 2"
    assert ends(work, head)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_in_order(number: int) -> None:
    work = "try:\n    print('ready', flush=True)\n    time.sleep(1000)\nexcept KeyboardInterrupt:\n    print('in order', flush=True)\n    return 130"
    process = start(work)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert out.split() == ["in", "order", "exit", "130"]


def test_a_signal_that_is_not_noticed_is_sent_again_and_one_that_is_comes_once() -> None:
    head = "send, lost = supervisor._Child.send, []\nsupervisor._Child.send = lambda self, number: send(self, number) if lost else lost.append(1)"
    work = "try:\n    print('ready', flush=True)\n    time.sleep(1000)\nexcept KeyboardInterrupt:\n    time.sleep(2)\n    print('in order', flush=True)\n    return 130"
    process = start(work, head)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert out.split() == ["in", "order", "exit", "130"]


def test_a_process_that_had_no_turn_when_it_was_sent_again_is_interrupted_once() -> None:
    work = "try:\n    print(os.getpid(), flush=True)\n    time.sleep(1000)\nexcept KeyboardInterrupt:\n    time.sleep(0.5)\n    print('in order', flush=True)\n    return 130"
    process = start(work)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    time.sleep(4 * supervisor.AGAIN)
    os.kill(child, signal.SIGCONT)
    out, _ = process.communicate(timeout=30)
    assert out.split() == ["in", "order", "exit", "130"]


def test_a_second_signal_ends_at_once() -> None:
    work = "while True:\n    try:\n        print('ready', flush=True)\n        time.sleep(1000)\n    except KeyboardInterrupt:\n        print('again', flush=True)"
    process = start(work)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "again\n"
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert out.endswith("exit 130\n")


def test_nothing_outlives_the_parent_or_the_work() -> None:
    work = "pid = os.fork()\nif pid == 0:\n    time.sleep(1000)\nprint(os.getpid(), pid, flush=True)\nEND"
    process = start(work.replace("END", "time.sleep(1000)"))
    assert process.stdout is not None
    mine, _ = map(int, process.stdout.readline().split())
    process.kill()
    process.wait()
    assert gone(mine)
    _, said = ends(work.replace("END", "return 0"))
    assert all(gone(int(word)) for word in said.split()[:2])


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes cannot be followed out of their group elsewhere")
@pytest.mark.parametrize(
    "leaves",
    [
        "other = os.fork()\nif not other:\n    os.setpgid(0, 0); time.sleep(60)\ntime.sleep(0.2); os.setpgid(0, other)",
        "if not os.fork():\n    os.setsid()\n    if not os.fork():\n        time.sleep(60)\n    os._exit(0)",
    ],
)
def test_what_leaves_its_group_is_ended_too(leaves: str) -> None:
    then = time.monotonic()
    code, _ = ends(WAITS + f"cage.say(folder='out', until=time.monotonic() + 1, phase='load', what='x')\n{leaves}\ntime.sleep(60)")
    assert code == 3 and time.monotonic() - then < patience(20), "the pipe of its output is open as long as one of them lives"
