"""What an audit notes of the code that measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlaudit.audit.provenance import probe_sources
from vlaudit.probe import Probe, probe
from vlaudit.records import Family, Risk

CODE = "class P: pass\n"


@pytest.mark.parametrize("files", [["folder/__init__.py", "folder/verdict.py"], ["single.py"]])
def test_every_file_of_a_probe_is_its_code_and_no_other(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder/__init__.py", "folder/verdict.py", "single.py", "beside.py"):
        (tmp_path / name).write_text(CODE)

    @probe(id="p", code="P1", risk=Risk.BIAS, families={Family.MATCHING})
    class P(Probe):
        pass

    def code() -> str | None:
        return probe_sources({"p": P()})["p"].code

    module = type(sys)("probe_of_this_test")
    module.__file__ = str(tmp_path / files[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(P, "__module__", module.__name__)
    before = code()
    (tmp_path / "beside.py").write_text("x = 1\n")
    assert code() == before is not None
    for name in files:
        (tmp_path / name).write_text(CODE + "x = 1\n")
        assert code() != before, name
        (tmp_path / name).write_text(CODE)
