"""The command line: parse, call, render. Commands are imported when called, so that ``--help`` imports no torch."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import click

from vlaudit import __version__, cage
from vlaudit.errors import OutOfMemory, UsageError, VlauditError, VlauditWarning, did_you_mean, ran_out_of_memory

COMMANDS = {
    "scan": "vlaudit.cli.scan",
    "plan": "vlaudit.cli.plan",
    "merge": "vlaudit.cli.merge",
    "report": "vlaudit.cli.folder",
    "judge": "vlaudit.cli.folder",
    "diff": "vlaudit.cli.folder",
    "compare": "vlaudit.cli.compare",
    "view": "vlaudit.cli.view",
    "replay": "vlaudit.cli.replay",
    "list": "vlaudit.cli.inspect",
    "explain": "vlaudit.cli.inspect",
    "selftest": "vlaudit.cli.selftest",
    "doctor": "vlaudit.cli.setup",
    "init": "vlaudit.cli.setup",
    "schema": "vlaudit.cli.setup",
    "validate": "vlaudit.cli.validate",
    "zoo": "vlaudit.cli.setup",
    "new": "vlaudit.cli.new",
}


ANSWERING = {"scan", "merge", "judge", "diff", "replay", "selftest"}  # whose exit code says something of what was audited


class Command(click.Command):
    """A command none of whose values is empty: a variable of a shell that is not set is not the same as a flag left out. Its options are
    read from the environment by the names of their flags."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # a shell asks what may follow
            return super().parse_args(ctx, args)
        if ctx.auto_envvar_prefix:
            for option in self.get_params(ctx):
                if isinstance(option, click.Option):  # the variable has the name of the flag, whatever the parameter is called
                    option.envvar = f"{ctx.auto_envvar_prefix}_{option.opts[0].lstrip('-').replace('-', '_').upper()}"
                    option.allow_from_autoenv = False
                    if option.multiple:  # a prompt has blanks: one value a line
                        option.type.envvar_list_splitter = "\n"  # type: ignore[misc]
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        for parameter in self.get_params(ctx):
            name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name.strip("[].")
            values = given.get(str(parameter.name))
            for value in values if isinstance(values, list | tuple) else [values]:
                if isinstance(value, str) and not value.strip():
                    raise UsageError(f"{name} is empty.", "Give it a value, or leave it out.")
                if isinstance(value, str) and "\0" in value:
                    raise UsageError(f"{name} holds a NUL character.", "Give it as text.")
        return super().parse_args(ctx, args)


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS and ctx.resilient_parsing:  # a shell asks what may follow
            return None
        if name not in COMMANDS:
            ctx.fail(f"There is no command '{name}'. {did_you_mean(name, list(COMMANDS))}")
        return getattr(importlib.import_module(COMMANDS[name]), f"{name}_command")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vlaudit")
def cli() -> None:
    """Audit a prompted vision-language model: robustness, backdoors, bias and privacy.

    What is audited is a model under a prompt. Start with

        vlaudit scan            three bundled specimens, offline

        vlaudit scan hf:PATH --prompt "a photo of a {}" --data DIR

        vlaudit scan open_clip:local-dir:PATH --prompt coop:FILE --data DIR

    and read the report with `vlaudit report AUDIT_DIR`.
    """


def main() -> None:
    """Run the command line in a process of its own and exit with its code: see "Exit codes" in ``vlaudit scan --help``."""
    if os.environ.get("_VLAUDIT_COMPLETE"):
        from vlaudit.cli.completion import answer

        answer(cli)
    from vlaudit.cage.supervisor import supervise

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.formatwarning = _format_warning
    if sys.argv[1:2] == ["view"]:  # loads no model and no plugin's file, and what it opens must outlive it
        sys.exit(run(sys.argv[1:]))
    sys.exit(supervise(lambda: run(sys.argv[1:])))


def run(arguments: list[str]) -> int:
    """Run a command line in this process and return the exit code."""
    debug, out = "--debug" in arguments, sys.stdout
    try:
        _check_unicode(arguments)
        code = cli.main(arguments, prog_name="vlaudit", standalone_mode=False, auto_envvar_prefix="VLAUDIT")
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return 130
    except (BrokenPipeError, SystemExit) as error:
        broke = sys.stdout is not out or isinstance(error.__context__, BrokenPipeError)  # click and rich exit when a pipe broke
        if isinstance(error, SystemExit) and not broke:
            return _bug(error, debug)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the reader of a pipe went away)
        return 3 if arguments[:1] and arguments[0] in ANSWERING else 0
    except VlauditError as error:
        if debug:
            _print_traceback()
        click.echo(f"Error: {_one_line(error.message)}", err=True)
        if error.cure:
            click.echo(f"       {_one_line(error.cure)}", err=True)
        return error.exit_code
    except BaseException as error:  # noqa: BLE001 (the last resort: a bug is said in one sentence, with its traceback on demand)
        if ran_out_of_memory(error):
            return _out_of_memory(error, debug)
        if isinstance(error, OSError) and error.filename is not None:
            return _no_such_path(error, arguments, debug)
        return _bug(error, debug)


def _out_of_memory(error: BaseException, debug: bool) -> int:
    if debug:
        _print_traceback()
    click.echo(f"Error: Memory ran out: {_one_line(cage.foreign_words(error))}", err=True)
    click.echo("       Use another --device, a smaller --dtype, a quantised checkpoint, or less data.", err=True)
    return OutOfMemory.exit_code


def _no_such_path(error: OSError, arguments: list[str], debug: bool) -> int:
    """A file or folder that the system refuses: its name is too long, its rights are lacking, the disk that it is on is gone."""
    if debug:
        _print_traceback()
    click.echo(f"Error: '{_one_line(str(error.filename))}' cannot be used ({error.strerror}).", err=True)
    click.echo("       Name another one, or mend its rights.", err=True)
    return 3 if arguments[:1] and arguments[0] in ANSWERING else UsageError.exit_code


def _bug(error: BaseException, debug: bool) -> int:
    if debug:
        _print_traceback()
    click.echo(f"Error: vlaudit failed with {_one_line(cage.foreign_words(error))}", err=True)
    click.echo("       This is a bug. Run the command again with --debug for the traceback.", err=True)
    return 3


def new_folder(suffix: str = "") -> Path:
    """``vlaudit-out/TIMESTAMP`` that is not there yet, for what is not told where to write."""
    stamp = Path("vlaudit-out") / f"{datetime.now():%Y%m%d-%H%M%S}{suffix}"
    names = itertools.chain([stamp], (stamp.with_name(f"{stamp.name}-{count}") for count in itertools.count(2)))
    return next(folder for folder in names if not folder.exists())


def _check_unicode(arguments: list[str]) -> None:
    from vlaudit.files import is_unicode

    for argument in arguments:
        if not is_unicode(argument):
            raise UsageError(f"The argument '{argument}' is not UTF-8.", "Rename the file or folder that it names.")


_python_format: Callable[..., str] = warnings.formatwarning


def _format_warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> str:
    """Our own warnings as users read them, others as Python prints them."""
    if issubclass(category, VlauditWarning):
        return f"Warning: {_one_line(str(message))}\n"
    return _python_format(message, category, *place, **more)


def _print_traceback() -> None:
    from vlaudit.secrets import redact

    click.echo(redact(traceback.format_exc()), err=True)


def _one_line(text: str) -> str:
    from vlaudit.reporting import log_line

    return log_line(text, 600)


debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
