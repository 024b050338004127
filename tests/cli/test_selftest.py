"""The self-test: it scans in fresh processes, counts honestly, and fails when an expectation is not met."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlaudit.cli import selftest
from vlaudit.cli.selftest import Result, Scan, _work, summarise
from vlaudit.zoo import specimens


def result(expected: str, verdict: str, probe: str = "p") -> Result:
    return Result("s", probe, expected, verdict, "")


def test_rates_have_exact_intervals_and_errors_are_no_hits() -> None:
    results = [result("vulnerable", "vulnerable")] * 9 + [result("vulnerable", "error"), result("held", "held"), result("held", "inconclusive"), result("held", "vulnerable")]  # fmt: skip
    rates = summarise(results)["p"]
    assert (rates["sensitivity"]["hits"], rates["sensitivity"]["n"]) == (9, 10)
    assert (rates["specificity"]["hits"], rates["specificity"]["n"]) == (2, 3)
    assert rates["sensitivity"]["ci"][0] == pytest.approx(0.555, abs=1e-3)
    assert [r.met for r in results[-3:]] == [True, False, False]
    assert summarise([result("held", "held")])["p"]["sensitivity"] is None


def test_selftest_runs_and_writes_json(tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    assert (
        vlaudit(
            "selftest",
            "--probe",
            "unsafe-file",
            "--specimen",
            "clean",
            "--specimen",
            "tiny-clean",
            "--jobs",
            2,
            "--out",
            tmp_path,
        )
        == 0
    )
    content = json.loads((tmp_path / "selftest.json").read_text())
    assert len(content["results"]) == 2 and content["probes"]["unsafe-file"]["specificity"]["hits"] == 2


def test_specimens_of_one_model_are_scanned_together_and_each_expectation_once() -> None:
    work = _work((), ())
    asked = [(specimen.name, probe) for scan in work for specimen in scan.specimens for probe in scan.probes]
    named = [(s.name, probe) for s in specimens() for probe, verdict in s.expects.items() if verdict != "any"]
    assert sorted(asked) == sorted(named)
    for scan in work:
        assert len({(s.model, s.data, *s.groups, s.members) for s in scan.specimens}) == 1
    learned = {"poisoned-prompt", "learned-prompt", "poisoned-visual-prompt"}
    assert any(learned <= {s.name for s in scan.specimens} for scan in work)
    assert len({scan.name for scan in work}) == len(work), "each has a folder of its own"


def test_an_unmet_expectation_fails(monkeypatch: pytest.MonkeyPatch, vlaudit: Callable[..., int]) -> None:
    wrong = next(s for s in specimens() if s.name == "tiny-clean").model_copy(
        update={"expects": {"unsafe-file": "vulnerable"}}
    )
    monkeypatch.setattr(selftest, "_work", lambda probes, names: [Scan((wrong,), ("unsafe-file",))])
    assert vlaudit("selftest") == 1


def test_unknown_specimen_and_probe_without_expectations(vlaudit: Callable[..., int]) -> None:
    assert vlaudit("selftest", "--specimen", "claen") == 2
    assert vlaudit("selftest", "--probe", "nothing") == 2
