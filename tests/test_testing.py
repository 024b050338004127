"""check_probe lets a good probe pass and names what is wrong with a bad one."""

from __future__ import annotations

import importlib.util
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


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("import os\n", "import os\nimport torch\n", "inside functions"),
        ('id="mirror"', 'id="Mirror Probe"', "kebab-case"),
        ("for example in ctx.examples]\n\n    def shards", "for example in ctx.examples * 2]\n\n    def shards", "unique"),
        ("for case in cases:\n            time", "for case in cases[:0]:\n            time", "no trial"),
        ('int(ctx.rng(case).integers(1000))', 'cases.index(case)', "order of the cases"),
        ("ci=interval.ci", "ci=(2.0, 3.0)", "outside its interval"),
        ('f"{count} of {n} flip"', 'f"{trials.target is trials} {list(trials)[0].case}"', "order of the trials"),
        ("[cases[i : i + 4] for i in range(0, len(cases), 4)]", "[cases[:4]]", "every case once"),
    ],
)  # fmt: skip
def test_a_bad_probe_is_told_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MIRROR
    with pytest.raises(AssertionError, match=message):
        check_probe(load(tmp_path, MIRROR.replace(old, new)))
