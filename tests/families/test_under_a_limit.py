"""A model of ViT-B size under a limit of memory: nothing fails, what is taken stays near what one part takes, and results are the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(*arguments: object) -> Any:
    command = [sys.executable, "-m", "tests.families.under_a_limit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(("side", "left"), [(64, 400_000_000), pytest.param(224, 2_500_000_000, marks=pytest.mark.slow)])
def test_a_pass_of_64_pictures_takes_little_more_than_its_largest_part(side: int, left: int, tmp_path: Path) -> None:
    cut = run(side, left, 0, tmp_path / "cut")
    passed = [size for size, grad in cut["sizes"] if grad]
    assert sum(passed) == 64 + 1 + 2, "all pictures, and those that are measured"
    largest = max(passed)
    assert 4 <= largest < 64
    whole = run(side, 0, largest, tmp_path / "whole")
    gradients = 64 * 3 * side * side * 4
    assert cut["peak"] <= 1.5 * whole["peak"] + gradients
    parts, expected = load_file(tmp_path / "cut"), load_file(tmp_path / "whole")
    for name, value in expected.items():
        torch.testing.assert_close(parts[name][:largest], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))
