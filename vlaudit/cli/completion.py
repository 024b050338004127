"""What a shell completes: names of probes, specimens, backends and formats. Imports no model, and no probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

Completes = Callable[[click.Context, click.Parameter, str], list[str]]
COLON = ":"


def probes() -> list[str]:
    from vlaudit.plugins import plugins

    return list(plugins("probes"))


def selectors() -> list[str]:
    from vlaudit.records import Family, Risk

    return [*probes(), *(f"risk:{risk.value}" for risk in Risk), *(f"family:{family.value}" for family in Family)]


def settings() -> list[str]:
    """As ``--set`` begins."""
    return [f"{probe}." for probe in probes()]


def specimens() -> list[str]:
    from vlaudit.zoo import specimens

    return [specimen.name for specimen in specimens()]


def targets() -> list[str]:
    from vlaudit.plugins import plugins

    return [*(f"zoo:{name}" for name in specimens()), *(f"{backend}:" for backend in plugins("backends"))]


def formats() -> list[str]:
    from vlaudit.plugins import plugins

    return list(plugins("reporters"))


def explained() -> list[str]:
    from vlaudit.plugins import plugins

    return [name for group in ("probes", "prompts", "backends", "reporters") for name in plugins(group)] + specimens()


def one_of(known: Callable[[], Iterable[str]]) -> Completes:
    """The names that begin as what is typed does."""
    return lambda _ctx, _param, typed: [name for name in known() if name.startswith(typed)]


def some_of(known: Callable[[], Iterable[str]]) -> Completes:
    """The same for the last of names with commas between them, none of them twice."""

    def complete(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
        before, comma, last = typed.rpartition(",")
        return [f"{before}{comma}{name}" for name in known() if name.startswith(last) and name not in before.split(",")]

    return complete


class Bash(BashComplete):
    """Bash takes ``zoo:clean`` and ``--probe=cropa`` for three words each, and wants what follows the last colon alone."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, typed = super().get_completion_args()
        whole: list[str] = []
        for word in [*(word for word in args if word != "="), typed]:
            joins = word and whole and COLON in (word[0], whole[-1][-1])
            whole = [*whole[:-1], whole[-1] + word] if joins else [*whole, word]
        self._typed = whole[-1]
        return whole[:-1], whole[-1]

    def format_completion(self, item: CompletionItem) -> str:
        before, colon, _ = self._typed.rpartition(COLON)
        return f"{item.type},{str(item.value).removeprefix(before + colon)}"


def answer(cli: click.Command) -> None:
    """Answer a shell that asks by ``_VLAUDIT_COMPLETE``, and exit."""
    add_completion_class(Bash)
    cli.main(prog_name="vlaudit")
