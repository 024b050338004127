"""What a report says of an audit, to be compared with another's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def findings(folder: Path, complete: bool | None = True) -> list[dict[str, Any]]:
    """Findings without the seconds that a clock measured."""
    report = json.loads((folder / "report.json").read_text())
    assert complete is None or report["audit"]["complete"] is complete
    for finding in report["findings"]:
        finding["cost"].pop("seconds")
    return report["findings"]


def same(*folders: Path) -> bool:
    """Whether the findings of audits are the same to the byte, but for those seconds."""
    return len({json.dumps(findings(folder)) for folder in folders}) == 1
