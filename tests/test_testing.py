"""check_probe lets a good probe pass, and names the check that a bad one fails."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import MIRROR
from vlaudit.probe import Probe
from vlaudit.records import Verdict
from vlaudit.testing import check_probe


def load(tmp_path: Path, source: str, name: str = "Mirror") -> type[Probe]:
    path = tmp_path / "probe_under_test.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("probe_under_test", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["probe_under_test"] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def test_a_good_probe_passes(tmp_path: Path) -> None:
    assert check_probe(load(tmp_path, MIRROR)).verdict in (Verdict.HELD, Verdict.INCONCLUSIVE, Verdict.VULNERABLE)


BAD = [
    ("light-imports", "import os\n", "import os\nimport torch\n", "import torch inside functions"),
    ("kebab-case-id", 'id="mirror"', 'id="Mirror Probe"', "'Mirror Probe' is not"),
    ("families", "families={Family.MATCHING}", "families=set()", "at least one"),
    ("documentation", MIRROR.split('"""')[1].split("\n\n")[0], "Mirrors pictures.", "docstring"),
    ("headline", 'headline="A mirrored picture loses its label"', 'headline=""', "plain words"),
    ("impact", "Threat. ", "", "why the flaw matters"),
    ("remedy", "What to do. ", "", "what to do about the flaw"),
    ("some-cases", "for example in ctx.examples]\n\n    def shards", "for example in ctx.examples[:0]]\n\n    def shards", "nothing to try"),
    ("same-cases", "in ctx.examples]\n\n    def shards", "in sorted(ctx.examples, key=lambda _: os.urandom(4))]\n\n    def shards", "same list"),
    ("unique-cases", "for example in ctx.examples]\n\n    def shards", "for example in ctx.examples * 2]\n\n    def shards", "unique"),
    ("shards-hold-all", "[cases[i : i + 4] for i in range(0, len(cases), 4)]", "[cases[:4]]", "every case once"),
    ("target-trials", "for case in cases:\n            time", "for case in cases[:0]:\n            time", "no trial"),
    ("own-cases", "yield ctx.trial(case, {", "yield ctx.trial(case.id + '?', {", "was not given"),
    ("order-and-batch", 'int(ctx.rng(case).integers(1000))', 'cases.index(case)', "order of the cases"),
    ("order-and-batch", 'int(ctx.rng(case).integers(1000))', 'ctx.batch_size', "batch size"),
    ("pure-judge", 'f"{count} of {n} flip"', 'f"{trials.target is trials} {list(trials)[0].case}"', "order of the trials"),
    ("reason", 'f"{count} of {n} flip"', '""', "needs a reason"),
    ("metric", "verdict=verdict(interval, limit)", "verdict='held'", "needs a metric"),
    ("value-in-interval", "ci=interval.ci", "ci=(2.0, 3.0)", "outside its interval (2.0, 3.0)"),
]  # fmt: skip


def broken(tmp_path: Path, name: str, old: str, new: str) -> type[Probe]:
    assert old in MIRROR
    source = MIRROR.replace(old, new)
    return load(tmp_path, source.replace("metric=metric, ", "") if name == "metric" else source)


@pytest.mark.parametrize(("name", "old", "new", "message"), BAD)
def test_a_bad_probe_is_told_which_check_it_fails_and_why(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    with pytest.raises(AssertionError, match=f"(?s)^{name}: .*{re.escape(message)}"):
        check_probe(broken(tmp_path, name, old, new))


@pytest.mark.parametrize(("name", "old", "new", "message"), [bad for bad in BAD if bad[0] in ("documentation", "reason", "value-in-interval")])
def test_a_check_that_is_expected_to_fail_may(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    assert check_probe(broken(tmp_path, name, old, new), expected_failed_checks={name: "known"})


def test_a_check_that_is_expected_to_fail_must(tmp_path: Path) -> None:
    mirror = load(tmp_path, MIRROR)
    with pytest.raises(AssertionError, match=r"^light-imports: it was expected to fail \(no lazy imports\) and passes"):
        check_probe(mirror, expected_failed_checks={"light-imports": "no lazy imports"})
    with pytest.raises(AssertionError, match=r"no check 'light-import': documentation, families, .*light-imports"):
        check_probe(mirror, expected_failed_checks={"light-import": "a slip"})
    assert check_probe(mirror, expected_failed_checks={}).reason
