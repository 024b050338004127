"""Units on a cluster of Ray: three nodes on 127.0.0.1, of which one vanishes, give the findings of one process."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.audit.reported import findings, same
from tests.audit.test_shards import STAGED
from tests.conftest import save_tiny_clip
from vlaudit.audit import ray_executor
from vlaudit.audit.journal import Unit
from vlaudit.audit.ray_executor import LOOPBACK

Command = Callable[..., int]


@pytest.fixture
def scan(tiny_clip: Path, picture_folder: Path, mirror_plugin: Path) -> list[str]:
    return ["scan", f"hf:{tiny_clip}", "--prompt", "the {}", "--prompt", "a photo of a {}", "--data", str(picture_folder),
            "--plugin", str(mirror_plugin), "--probe", "mirror", "--probe", "typographic"]  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ |= {LOOPBACK: "0", "RAY_worker_niceness": "0", "MIRROR_SLEEP": "0.1"}  # before Ray is imported; the last for its actors
    pytest.importorskip("ray", reason='Ray is not installed (pip install "vlaudit[ray]")')
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}
    made = Cluster()
    try:
        made.add_node(**node, include_dashboard=False)
        made.nodes_to_lose = [made.add_node(**node) for _ in range(2)]
    except Exception as error:  # noqa: BLE001 (Ray gives a node 30 seconds to start, whatever else the machine does)
        made.shutdown()
        del os.environ["MIRROR_SLEEP"]
        pytest.skip(f"no cluster of Ray starts here: {error}")
    del os.environ["MIRROR_SLEEP"]
    yield made
    made.shutdown()


@pytest.mark.timeout(900)
def test_a_node_that_vanishes_loses_nothing(
    scan: list[str], cluster: Any, tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vlaudit(*scan, "--executor", "local", "--out", tmp_path / "one") in (0, 1)
    journal = tmp_path / "many" / "trials.jsonl"

    def lose() -> None:
        deadline = time.time() + 600
        while time.time() < deadline and not (journal.exists() and journal.read_text().count('"closed"') >= 2):
            time.sleep(0.1)
        cluster.remove_node(cluster.nodes_to_lose.pop(), allow_graceful=False)

    loses = threading.Thread(target=lose)
    loses.start()
    assert vlaudit(*scan, "--executor", f"ray:{cluster.address}", "--out", tmp_path / "many") in (0, 1)
    loses.join()
    assert len(cluster.nodes_to_lose) == 1 and same(tmp_path / "many", tmp_path / "one")
    units = [line for line in journal.read_text().splitlines() if '"closed"' in line]
    assert len(units) == len({json.loads(line)["unit"] for line in units}), "each unit is counted once"
    shown = [evidence["path"] for finding in findings(tmp_path / "many") for evidence in finding["evidence"]]
    assert all((tmp_path / "many" / path).is_file() for path in shown)


@pytest.mark.timeout(900)
def test_ctrl_c_leaves_a_partial_report_and_the_same_command_goes_on(scan: list[str], cluster: Any, tmp_path: Path, vlaudit: Command) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    command = [sys.executable, "-c", "from vlaudit.cli import main; main()", *scan, "--executor", f"ray:{cluster.address}", "--out", str(out)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    journal, deadline = out / "trials.jsonl", time.time() + 600
    while process.poll() is None and time.time() < deadline and not (journal.exists() and '"closed"' in journal.read_text()):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(120) == 130, log.read_text()
    assert "the report is partial" in log.read_text() and "Traceback" not in log.read_text()
    before = findings(out, complete=False)
    assert any("not finished" in finding["reason"] for finding in before)
    assert vlaudit(*scan, "--executor", "local", "--out", out) in (0, 1)
    assert vlaudit(*scan, "--executor", "local", "--out", tmp_path / "one") in (0, 1)
    assert same(out, tmp_path / "one")


class InProcess:
    """As much of Ray as the executor uses, without its processes: what is asked for is done at once. ``asked``: by actor, for models."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.ended = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, made: Callable[..., Any]) -> Any:
        def start(*given: Any) -> Any:
            actor, asked = made(*given), list[str]()
            self.asked.append(asked)

            def run(model: str, unit: Unit) -> Any:
                asked.append(model)
                if len(asked) == 2 and len(self.asked) == 1:
                    return RuntimeError("The actor died.")
                return actor.run(model, Unit.model_validate_json(unit.model_dump_json()))

            return SimpleNamespace(run=SimpleNamespace(remote=lambda *given: SimpleNamespace(value=run(*given))))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))

    def wait(self, waiting: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return waiting[-1:], waiting[:-1]

    def get(self, reference: Any) -> Any:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def kill(self, _: Any) -> None:
        pass

    def shutdown(self) -> None:
        self.ended = True


def test_actors_keep_their_model_and_one_that_dies_spoils_its_unit(
    picture_folder: Path, mirror_plugin: Path, tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Ray: what goes to which actor, and what becomes of what comes back."""
    ray = InProcess()
    monkeypatch.setattr(ray_executor, "_connected", lambda _: ray)
    monkeypatch.setattr("vlaudit.audit.station.network.close", lambda: None)  # this process goes on
    (tmp_path / "staged.py").write_text(STAGED)
    models = [save_tiny_clip(tmp_path / name, seed) for seed, name in enumerate(("a", "b"), 1) if not (tmp_path / name).mkdir()]
    words = ["scan", *(f"hf:{model}" for model in models), "--prompt", "the {}", "--data", picture_folder, "--plugin", mirror_plugin,
             "--plugin", tmp_path / "staged.py", "--probe", "mirror", "--probe", "staged"]  # fmt: skip
    assert vlaudit(*words, "--executor", "ray", "--out", tmp_path / "many") == 3
    report = json.loads((tmp_path / "many" / "report.json").read_text())
    assert ray.ended and any("its actor failed: RuntimeError: The actor died" in error for error in report["audit"]["errors"])
    assert len(ray.asked) == 3, "one for each model, and one in the place of that which died"
    switched = [sum(one != other for one, other in itertools.pairwise(asked)) for asked in ray.asked]
    assert max(switched) <= 1 and {model for asked in ray.asked for model in asked} == {f"hf:{model}" for model in models}
    assert vlaudit(*words, "--executor", "local", "--out", tmp_path / "many") in (0, 1), "the same command goes on, with any executor"
    assert vlaudit(*words, "--executor", "local", "--out", tmp_path / "one") in (0, 1)
    assert same(tmp_path / "one", tmp_path / "many")
    shown = [evidence["path"] for finding in findings(tmp_path / "many") for evidence in finding["evidence"]]
    assert shown and all((tmp_path / "many" / path).is_file() for path in shown)


def test_without_ray_one_sentence(scan: list[str], tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert vlaudit(*scan, "--executor", "ray", "--out", tmp_path / "out") == 2
    assert 'pip install "ray>=2.50"' in capsys.readouterr().err
    assert vlaudit(*scan, "--executor", "rey", "--out", tmp_path / "none") == 2
    assert "Did you mean 'ray'?" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert vlaudit(*scan, "--executor", "process:0", "--out", tmp_path / "out") == 2
    assert "'0' is no number of processes" in capsys.readouterr().err
    assert vlaudit(*scan, "--executor", "process:3", "--out", tmp_path / "out") in (0, 1), "what was refused left nothing in the way"


def test_another_version_of_ray_is_one_sentence(
    scan: list[str], tmp_path: Path, vlaudit: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Other:
        @staticmethod
        def init(**_: object) -> None:
            raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0")

    monkeypatch.setitem(sys.modules, "ray", Other)
    assert vlaudit(*scan, "--executor", "ray:10.0.0.1:6379", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "'10.0.0.1:6379' cannot be used: Version mismatch" in error and "Traceback" not in error
