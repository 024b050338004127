"""``vlaudit new``: a plugin to begin with, which works, and its test."""

from __future__ import annotations

import keyword
import os
import re
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from vlaudit.cli import Command, debug_option
from vlaudit.errors import UsageError

PROBE = '''\
"""Does a mirrored picture keep its label? (Say here what your probe asks; this text is its page.)

Threat. A camera that mirrors what it sees changes the answer, and nobody notices.

Metric. The share of pictures whose top label changes, with an exact interval. There is no control arm.

What to do. Tune the model on mirrored pictures too, or mirror none.
"""

from vlaudit.probe import Claim, Needs, Probe, probe
from vlaudit.records import Case, Family, Risk


@probe(id="{id}", code="X1", risk=Risk.ROBUSTNESS, families={{Family.MATCHING}}, needs={{Needs.LABELS}}, threshold=0.2,
       headline="A mirrored picture loses its label")
class {name}(Probe):
    """One line that says what it does."""

    def cases(self, ctx):  # what to try: cheap, before any model runs
        return [Case(id=example.id) for example in ctx.examples]

    def attempt(self, ctx, cases):  # trials: what came out, numbers and never a verdict
        examples, classify = {{e.id: e for e in ctx.examples}}, ctx.target.classifier(ctx.labels)
        for case in cases:
            image = ctx.images([examples[case.id]])
            yield ctx.trial(case, {{"flips": bool(classify(image).argmax() != classify(image.flip(-1)).argmax())}})

    def judge(self, trials, policy):  # the verdict, of the trials alone
        hits, n = sum(trial["flips"] for trial in trials.target), len(trials.target)
        claim = Claim(self.info, policy, "label changes").rate(hits, n)
        return claim.says(f"{{hits}} of {{n}} change{{claim.trials_would_decide('pictures')}}")
'''
TEST = '''\
"""The probe keeps its contract, and its judge tells harm from innocence."""

from {module} import {name}

from vlaudit.policy import Policy
from vlaudit.records import Trial, Trials, Verdict
from vlaudit.testing import check_probe


def judged(flips: int, of: int) -> Verdict:
    trials = [Trial(case=str(i), arm="target", values={{"flips": i < flips}}) for i in range(of)]
    return {name}().judge(Trials(trials), Policy()).verdict


def test_it_keeps_the_contract() -> None:
    check_probe({name})


def test_harm_is_found_and_innocence_is_not_accused() -> None:
    assert judged(60, 100) is Verdict.VULNERABLE
    assert judged(2, 100) is Verdict.HELD
    assert judged(1, 3) is Verdict.INCONCLUSIVE
'''


@click.group("new")
def new_command() -> None:
    """Begin a plugin of your own."""


@new_command.command("probe", cls=Command)
@click.argument("name")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Folder. [default: this one]")
@debug_option
def new_probe(name: str, out: Path) -> int:
    """Write NAME.py, a whole probe to change, and test_NAME.py, which passes.

    NAME is the probe's id: lower-case words with hyphens, such as mirrored-picture.
    """
    from vlaudit.files import make_folder, write_atomically
    from vlaudit.plugins import plugins

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"'{name}' is no id of a probe.", "Write lower-case words with hyphens, such as mirrored-picture.")
    if name in plugins("probes"):
        raise UsageError(f"There is a probe '{name}' already.", "Choose another name.")
    module, class_name = name.replace("-", "_"), "".join(map(str.capitalize, name.split("-")))
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or find_spec(module):
        raise UsageError(f"'{name}' would be a file {module}.py that no test can import: Python has that word already.", "Choose another name.")
    if keyword.iskeyword(class_name) or re.search(rf"\b{class_name}\b", PROBE + TEST):
        class_name += "Probe"  # beside what it imports
    files = {f"{module}.py": PROBE.format(id=name, name=class_name), f"test_{module}.py": TEST.format(module=module, name=class_name)}
    for file in files:
        if os.path.lexists(out / file):
            raise UsageError(f"'{out / file}' is there already.", "Choose another name, or --out FOLDER.")
    make_folder(out)
    for file, text in files.items():
        write_atomically(out / file, text)
        click.echo(f"Wrote {out / file}")
    click.echo(f"Try it: vlaudit scan zoo:tiny-clean --plugin {shlex.quote(str(out / module))}.py --probe {name}")
    click.echo(f"Test it: pytest {shlex.quote(str(out / f'test_{module}'))}.py")
    return 0
