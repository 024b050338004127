"""Models of real size on a GPU, through the command line: nothing runs out of memory, nothing fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.real_size import KINDS, save, scan


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(KINDS))
def test_every_probe_ends_on_a_model_of_real_size(name: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    weights = {"flux": 70e9}.get(name, 24e9)
    if torch.cuda.mem_get_info()[1] < weights:
        pytest.skip(f"needs {weights / 1e9:.0f} GB of GPU memory")
    save(KINDS[name], tmp_path, torch.device("cuda"))
    found = scan(tmp_path, KINDS[name], "cuda", "20s")
    print(name, found)
    assert found.get("code") in (0, 3), found
    assert not found["failed"] and not found["errors"]
    assert found["assessed"] > 1
