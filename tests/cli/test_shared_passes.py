"""What prompts of one model have in common passes once: by the counts of the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vlaudit.audit.journal import Journal, read_manifest

Command = Callable[..., int]
EIGHT = ("an emoji of a {}", "a picture of a {}", "{}", "this is a {}", "a drawing of a {}", "an image of the {}", "an icon: {}", "a small {}")


def passes(folder: Path) -> Counter[str]:
    """Passes of pictures, by probe."""
    probes = {unit.id: planned.probe for planned in read_manifest(folder).planned for unit in planned.units}
    counted: Counter[str] = Counter()
    for unit, result in Journal(folder).results().items():
        assert result.passed is not None
        counted[probes[unit]] += result.passed.passes
    return counted


def test_eight_prompts_pass_what_they_have_in_common_once(tmp_path: Path, vlaudit: Command) -> None:
    chosen = ("--probe", "MR4", "--set", "typographic.pictures=40", "--budget", "none", "--debug")
    for name, prompts in (("one", EIGHT[:1]), ("eight", EIGHT)):
        flags = [word for prompt in prompts for word in ("--prompt", prompt)]
        assert vlaudit("scan", "zoo:tiny-clean", *flags, *chosen, "--out", tmp_path / name) in (0, 1)
    one, eight = passes(tmp_path / "one"), passes(tmp_path / "eight")
    assert 0 < eight["typographic"] == one["typographic"]
