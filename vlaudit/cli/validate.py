"""``vlaudit validate``: all that ``scan`` would refuse of the files that users write, at once, without loading a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlaudit.cli import Command, debug_option
from vlaudit.errors import UsageError, VlauditError

if TYPE_CHECKING:
    from vlaudit.config import Config, TargetSpec
    from vlaudit.registry import ProbeRegistry


@click.command("validate", cls=Command)
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--plugin", "plugins", multiple=True, type=click.Path(dir_okay=False, path_type=Path), help="Probe file that the scan is given.")
@debug_option
def validate_command(files: tuple[Path, ...], plugins: tuple[Path, ...]) -> int:
    """Check vlaudit.toml (or [tool.vlaudit] in pyproject.toml) and .vlaudit-ignore.toml, of this folder or the FILES given, without
    loading a model.

    FILES may be policies of `vlaudit judge --policy` too. All that is wrong is listed: entries, probes, parameters, thresholds, specimens,
    prompts, and models and data that are not there. An expired suppression fails, so that a commit hook finds it.
    """
    from vlaudit.config import FILE_NAME, found_config
    from vlaudit.suppressions import IGNORE_FILE

    found = files or tuple(path for path in (found_config(), Path(IGNORE_FILE)) if path and os.path.lexists(path))
    if not found:
        raise UsageError(
            f"There is no {FILE_NAME} and no {IGNORE_FILE} here.", "Name the files, or write them: vlaudit init."
        )
    wrong = 0
    for path in found:
        errors = _wrong_with(path, plugins)
        for error in errors:
            click.echo(f"{path}: {error}")
        wrong += len(errors)
        if not errors:
            click.echo(f"{path}: ok")
    if wrong:
        raise UsageError(f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong.", "Mend what is listed above.")
    return 0


def _wrong_with(path: Path, plugins: tuple[Path, ...] = ()) -> list[VlauditError]:
    from vlaudit.config import look_at_config
    from vlaudit.policy import load_policy
    from vlaudit.registry import ProbeRegistry
    from vlaudit.suppressions import look_at_suppressions

    registry = ProbeRegistry.load(plugins)
    infos = [probe.info for probe in registry.classes.values()]
    try:
        if "ignore" in path.name:
            entries, wrong = look_at_suppressions(path)
            expired = (entry for entry in entries if entry.expires < datetime.now(UTC).date())
            wrong += [UsageError(f"The suppression of {entry} has expired.", "Mend the flaw, or accept it anew.") for entry in expired]
            return [*wrong, *_raised(lambda name: registry.get(name), [entry.probe for entry in entries])]
        if "policy" in path.name:
            return list(load_policy(path).unknown(infos))
        config, wrong = look_at_config(path, trusted=True)
        return [*wrong, *_names(config, registry), *config.policy.unknown(infos), *(one for target in config.target for one in _things(target))]
    except VlauditError as error:
        return [error]


def _names(config: Config, registry: ProbeRegistry) -> Iterator[VlauditError]:
    """Probes that there are not, and parameters that they do not take."""
    yield from _raised(lambda name: registry.select([name]), [*config.scan.probe, *config.scan.skip])
    for name, values in config.probes.items():
        yield from _raised(lambda key, name=name, values=values: registry.make(name, {key: values[key]} if key else {}), list(values) or [""])


def _things(target: TargetSpec) -> Iterator[VlauditError]:
    """What a target names that is not there: specimens, kinds of models, prompts, folders and files."""
    from vlaudit.audit.targets import parse_model
    from vlaudit.data.dataset import look_for

    def model(spec: str) -> None:
        from vlaudit.zoo import get

        if spec.startswith("zoo:"):
            get(spec.removeprefix("zoo:"))
        else:
            backend, argument = parse_model(spec)
            backend.is_remote(argument)

    yield from _raised(model, [spec for spec in (target.model, target.scorer) if spec])
    yield from _raised(_look_at_prompt, [*target.prompt, *([target.reference] if target.reference else [])])
    yield from _raised(look_for, [target.data] if target.data else [])
    for name in ("labels", "captions"):
        if (file := getattr(target, name)) and not os.path.isfile(file):
            yield UsageError(f"The file '{file}' of {name} does not exist.", "Give a text file with one a line.")


def _look_at_prompt(spec: str) -> None:
    """Raise UsageError where no method, or no file of a learned prompt, is what a SPEC names."""
    from vlaudit.files import user_path
    from vlaudit.plugins import plugin, plugins
    from vlaudit.prompts.specs import parse_prompt
    from vlaudit.records import Family

    method, colon, argument = spec.partition(":")
    if "{" in spec and method not in plugins("prompts"):
        return
    if not colon:
        parse_prompt(spec, Family.MATCHING)  # which says what to write
    if not plugin("prompts", method).learned:  # raises with a did-you-mean
        return
    named = dict(part.partition("=")[::2] for part in argument.split(",")) if "=" in argument else {"file": argument}
    if (file := named.get("file")) and not file.startswith("zoo:") and not os.path.exists(user_path(file)):
        raise UsageError(f"The file '{file}' of the prompt '{method}' does not exist.", "Give the file that its training saved.")


def _raised(look: Callable[..., object], things: list[str]) -> Iterator[VlauditError]:
    for thing in things:
        try:
            look(thing)
        except VlauditError as error:
            yield error
