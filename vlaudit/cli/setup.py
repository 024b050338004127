"""Commands around an audit: ``doctor``, ``init``, ``schema`` and ``zoo``."""

from __future__ import annotations

import importlib
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import click

from vlaudit.cli import Command, debug_option
from vlaudit.cli.completion import one_of, specimens
from vlaudit.errors import UsageError

TEMPLATE = """\
# What `vlaudit scan` audits in this folder. Every entry may be left out; flags win over this file.

[scan]
effort = "standard"      # quick, standard or thorough
# skip = ["typographic"]

[[target]]
model = "zoo:tiny-clean"                   # a bundled one, to try; yours: hf:models/my-clip, open_clip:local-dir:PATH, diffusers:PATH
prompt = ["an emoji of a {}"]              # or coop:prompts/learned.safetensors, vp:FILE, ensemble:FILE
# data = "data/audit"                      # class folders, or metadata.csv with file_name, label and attribute columns
                                           # (or hf:NAME, hf:PATH, wds:SHARDS: docs/data.md)
# columns = { label = "category" }         # what columns of other names are: image, label, question, answer, choices, text, pair
# groups = ["gender"]                      # attribute columns to compare
# members = "train"                        # the split that the prompt was learned on, or a column that says yes or no

# [probes.clip-autoattack]                 # parameters of a probe: see `vlaudit explain clip-autoattack`
# [policy]
# fail_on = "high"                         # lowest severity that gives exit code 1
# [policy.thresholds]
# clip-autoattack = 0.10

# [compliance]                             # the cover of a compliance report; what is left out stays blank, to be filled in by hand
# system = "Photo search"
# version = "2.1"
# purpose = "finds products in customers' photos"
# organisation = "Example GmbH"
# assessor = "A. Person"
"""


@click.command("doctor", cls=Command)
@debug_option
def doctor_command() -> int:
    """Check the installation: packages that import, the device, plugins, and what to do about what is wrong."""
    problems = 0
    click.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    cures = {
        "torchvision": "Install matching versions: pip install -U torch torchvision",
        "requests": "Another package pulled an old one: pip install 'requests>=2.33'",
    }
    for module, package in (
        ("torch", "torch"), ("torchvision", "torchvision"), ("transformers", "transformers"), ("open_clip", "open_clip_torch"),
        ("torchattacks", "torchattacks"), ("fairlearn", "fairlearn"), ("requests", "requests"),
    ):  # fmt: skip
        try:
            importlib.import_module(module)
            click.echo(f"ok    {package} {version(package)}")
        except Exception as error:  # noqa: BLE001 (a broken package can raise anything)
            problems += 1
            click.echo(f"FAIL  {package}: {error}\n      {cures.get(module, f'pip install -U {package}')}")
    from vlaudit.device import pick_device
    from vlaudit.registry import ProbeRegistry

    click.echo(f"device {pick_device('auto')}")
    registry = ProbeRegistry.load()
    click.echo(f"probes {len(registry.classes)}")
    for name, reason in registry.broken.items():
        problems += 1
        click.echo(f"FAIL  plugin {name}: {reason}")
    click.echo("All is well." if not problems else f"{problems} problem(s).")
    return 0 if not problems else 3


@click.command("init", cls=Command)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@debug_option
def init_command(force: bool) -> int:
    """Write a commented vlaudit.toml into this folder."""
    from vlaudit.config import FILE_NAME
    from vlaudit.files import write_atomically

    path = Path(FILE_NAME)
    if os.path.lexists(path) and not force:
        raise UsageError(f"There is a {FILE_NAME} already.", "Use --force to overwrite it.")
    write_atomically(path, TEMPLATE)
    click.echo(f"Wrote {path}. Edit its [[target]], then run `vlaudit validate` and `vlaudit scan --dry-run`.")
    return 0


@click.command("schema", cls=Command)
@click.argument("kind", type=click.Choice(["report", "config"]), default="report")
@debug_option
def schema_command(kind: str) -> int:
    """Print the JSON Schema of report.json (default) or of vlaudit.toml."""
    from vlaudit.config import Config
    from vlaudit.records import Report

    model = Report if kind == "report" else Config
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    click.echo(json.dumps(schema, indent=1))
    return 0


@click.group("zoo")
def zoo_command() -> None:
    """The bundled specimens: small trained targets with known flaws."""


@zoo_command.command("build", cls=Command)
@click.argument("name", shell_complete=one_of(specimens))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the result. Default: the zoo."
)
@debug_option
def zoo_build(name: str, out: Path | None) -> int:
    """Train specimen NAME again from its recipe and seed (see vlaudit list specimens)."""
    from vlaudit.zoo.recipes import build

    click.echo(f"Wrote {build(name, out)}")
    return 0
