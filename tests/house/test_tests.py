"""The tests mirror the tree: each probe has one test module, in the place where its code stands."""

from __future__ import annotations

from tests.house.imports import ROOT
from vlaudit.plugins import OWN_PACKAGE, plugins


def test_each_probe_has_its_test_module() -> None:
    own = {name: found for name, found in plugins("probes").items() if found.origin.split()[0] == OWN_PACKAGE}
    assert len(own) > 30
    missing = []
    for name, found in own.items():
        module = found.load().__module__.split(".")  # vlaudit.attacks.RISK.PROBE
        assert module[-1] == name.replace("-", "_"), f"the module of {name} has another name"
        path = ROOT.joinpath("tests", *module[1:-1], f"test_{module[-1]}.py")
        if not path.is_file():
            missing.append(str(path.relative_to(ROOT)))
    assert missing == []
