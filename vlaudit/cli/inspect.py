"""Commands that say what there is: ``list`` and ``explain``. They import no torch."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from vlaudit.cli import Command, debug_option
from vlaudit.cli.completion import explained, one_of

if TYPE_CHECKING:
    from vlaudit.probe import Probe


def _probes() -> list[dict[str, Any]]:
    from vlaudit.registry import ProbeRegistry

    registry = ProbeRegistry.load()
    return [
        {
            "name": name, "code": probe.info.code, "risk": probe.info.risk.value, "title": probe.info.title,
            "families": sorted(probe.info.families), "needs": sorted(need.value for need in probe.info.needs),
            "origin": registry.origins[name],
        }
        for name, probe in registry.classes.items()
    ]  # fmt: skip


def _group(group: str) -> Callable[[], list[dict[str, Any]]]:
    def rows() -> list[dict[str, Any]]:
        from vlaudit.plugins import plugins

        return [
            {"name": name, "title": _first_sentence(found.load()), "origin": found.origin}
            for name, found in plugins(group).items()
        ]

    return rows


def _specimens() -> list[dict[str, Any]]:
    from vlaudit.zoo import specimens

    return [
        {"name": s.name, "family": s.family.value, "target": s.target, "planted": s.planted, "expects": s.expects}
        for s in specimens()
    ]


MIN_WIDTHS = {"name": 31, "risk": 10}  # so that tables of one page stand in line

KINDS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "probes": _probes,
    "prompts": _group("prompts"),
    "backends": _group("backends"),
    "specimens": _specimens,
    "reporters": _group("reporters"),
}


def _first_sentence(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0].rstrip(".")


@click.command("list", cls=Command)
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@debug_option
def list_command(kind: str, as_json: bool) -> int:
    """List what is installed: probes, prompting methods, backends, specimens, reporters."""
    rows = KINDS[kind]()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, columns = Console(), {"probes": ["name", "code", "risk", "title"], "specimens": ["name", "planted"]}.get(kind, ["name", "title"])
    for families in dict.fromkeys(", ".join(row.get("families", ())) for row in rows):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, no_wrap=column == "name", min_width=MIN_WIDTHS.get(column))
        for row in (row for row in rows if ", ".join(row.get("families", ())) == families):
            cells = [Text(str(row[column] if row[column] is not None else "clean")) for column in columns]
            if row.get("needs"):
                cells[-1].append(f"\nneeds {', '.join(row['needs'])}", "dim")
            table.add_row(*cells)
        if families:
            console.print(Text(f"{families}:", "bold"))
        console.print(table, end="\n\n")
    click.echo("`vlaudit explain NAME` says more of each; --json for all fields.")
    return 0


@click.command("explain", cls=Command)
@click.argument("name", shell_complete=one_of(explained))
@debug_option
def explain_command(name: str) -> int:
    """Explain a probe (id or code), prompting method, backend, reporter or specimen: what it does and when it errs."""
    from vlaudit.errors import UsageError, did_you_mean
    from vlaudit.plugins import plugins
    from vlaudit.registry import ProbeRegistry
    from vlaudit.zoo import specimens

    registry = ProbeRegistry.load()
    codes = {probe.info.code: probe.info.id for probe in registry.classes.values()}
    name = codes.get(name, name)
    if name in registry.classes:
        click.echo(_explain_probe(registry.classes[name]))
        return 0
    for specimen in specimens():
        if specimen.name == name:
            click.echo(_explain_specimen(specimen))
            return 0
    known = [*registry.classes, *codes, *(s.name for s in specimens())]
    for group in ("prompts", "backends", "reporters"):
        found = plugins(group)
        known += found
        if name in found:
            cls = found[name].load()
            module = inspect.getmodule(cls)
            click.echo(f"{name} ({group.removesuffix('s')}, {found[name].origin})\n\n{inspect.getdoc(module) or ''}")
            return 0
    raise UsageError(f"Nothing here is called '{name}'.", did_you_mean(name, known))


def _explain_probe(probe: type[Probe]) -> str:
    from vlaudit.pages import expected, facts, parameters, thresholds

    info, said = probe.info, facts(probe.info)
    lines = [
        f"{info.id} ({info.code}): {info.title}",
        "; ".join(f"{name} {value}" for name, value in said.items()),
        "",
        probe.documentation(),
        "",
    ]
    if rows := thresholds(info):
        lines.append("Thresholds (set them in the policy under [thresholds]):")
        lines += [f"  {key} = {value}  {meaning}. Source: {source}".replace("..", ".") for key, value, meaning, source in rows]
    if probe.model_fields:
        lines.append("Parameters (set them in vlaudit.toml under [probes." + info.id + "]):")
        lines += [f"  {p.name}: {p.kind} = {p.default}  {p.description}".rstrip() for p in parameters(probe)]
    if info.limits:
        lines += ["", f"What `held` does not prove: {info.limits}"]
    if known := expected(info.id):
        lines += ["", f"Specimens: {', '.join(f'{name} ({verdict})' for name, verdict in known.items())}"]
    if info.references:
        lines += ["", f"References: {', '.join(info.references)}"]
    if info.maps:
        lines.append(f"Evidence relevant to: {', '.join(info.maps)}")
    return "\n".join(lines)


def _explain_specimen(specimen: Any) -> str:
    expects = "\n".join(f"  {probe}: {verdict}" for probe, verdict in specimen.expects.items())
    return (
        f"{specimen.name}: {specimen.target}\nfamily {specimen.family.value}\n\n"
        f"Planted: {specimen.planted or 'nothing; it is clean'}\n\nExpected verdicts:\n{expects}\n\n"
        f"Audit it with `vlaudit scan {specimen.target}`."
    )
