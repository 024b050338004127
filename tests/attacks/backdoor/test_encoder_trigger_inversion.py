"""encoder-trigger-inversion on a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.backdoor.whole_run import open_context, quick_search, yields_trials_that_can_be_judged
from vlaudit.attacks.backdoor.encoder_trigger_inversion import EncoderTriggerInversion

__all__ = ["quick_search"]


@pytest.mark.usefixtures("quick_search")
def test_a_whole_run_yields_trials_that_can_be_judged(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> None:
    probe = EncoderTriggerInversion()
    yields_trials_that_can_be_judged(probe, open_context(tiny_clip, picture_folder, probe, tmp_path))
