"""The scans of encoder-trigger-scan, whose judge is the same."""

from __future__ import annotations

from benchmarks.battery.backdoor.encoder_trigger_scan import SCENARIOS as THEIRS
from vlaudit.attacks.backdoor.text_token_scan import TextTokenScan

PROBE = TextTokenScan
SCENARIOS = list(THEIRS)
