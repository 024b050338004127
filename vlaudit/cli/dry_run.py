"""What ``scan --dry-run`` shows: the design, the passes and the time that a plan would take, a table a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlaudit.audit.plan import Plan
    from vlaudit.records import Cost

KINDS: dict[str, Callable[[Cost], int]] = {
    "forward": lambda cost: cost.passes - cost.gradient_steps + cost.text_steps,
    "backward": lambda cost: cost.gradient_steps - cost.text_steps,
    "texts": lambda cost: cost.texts,
    "tokens": lambda cost: cost.tokens,
    "decoded": lambda cost: cost.decoded,
}
"""Passes of each kind: those of pictures, conversations or the denoiser, of which the ones passed backward stand by themselves; texts
read, tokens written, pictures decoded."""
RANGE = 1.5  # times that a plan may take less or more than its estimate


def show_plan(plan: Plan, device: Any) -> None:
    """Print what would run on ``device``, and what would not and why."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlaudit.audit.judge import cure
    from vlaudit.records import Cost
    from vlaudit.reporting import log_line, time_text

    console = Console()
    width = max(len(planned.probe) for planned in plan.planned)
    for target in dict.fromkeys(planned.target for planned in plan.planned):
        mine = [planned for planned in plan.planned if planned.target == target]
        spent = {planned.probe: sum((plan.costs[unit.id] for unit in planned.units), Cost()) for planned in mine}
        kinds = [kind for kind in KINDS if any(KINDS[kind](cost) for cost in spent.values())]
        table = Table(
            box=None, pad_edge=False, header_style="bold", title=Text(log_line(target), "bold"), title_justify="left"
        )
        table.add_column("probe", width=width)
        for column in ("cases", "arms", *kinds, "time"):
            table.add_column(column, justify="right", no_wrap=True)
        below = []
        for planned in mine:
            if planned.reason:
                below.append(f"  not assessed: {planned.probe}: {log_line(planned.reason)}")
                continue
            cases = {case for unit in planned.units for case in unit.cases}
            table.add_row(
                planned.probe, f"{len(cases):,}", str(len({unit.arm for unit in planned.units})),
                *(f"{KINDS[kind](spent[planned.probe]):,}" for kind in kinds), _range(plan, [planned.target], planned.probe),
            )  # fmt: skip
            if planned.reduced:
                below.append(f"  within the budget: {planned.probe}: {', '.join(map(str, planned.reduced))}")
        console.print(table)
        for line in below:
            console.print(Text(line, "dim"))
        console.print()
    budget = "no budget" if plan.request.budget is None else f"the budget is {time_text(plan.request.budget)}"
    told = f"{_range(plan, [target.id for target in plan.targets])} in all on {device}, {budget}"
    if plan.whole:
        told += f", and {cure(plan.whole)}"
    console.print(f"Estimated {told}. Estimates are of an idle machine, from a short calibration of the loaded models.", highlight=False)


def _range(plan: Plan, targets: list[str], probe: str | None = None) -> str:
    """From what the first rounds would take if all went fast, to what all would take if it went slowly."""
    from vlaudit.audit.plan import OVERHEAD

    units = {
        unit.id: unit
        for planned in plan.planned if planned.target in targets and probe in (None, planned.probe)
        for unit in planned.units
    }  # fmt: skip
    low, high = (
        sum(unit.weight + OVERHEAD for unit in units.values() if all_rounds or unit.round == 0) / plan.workers for all_rounds in (False, True)
    )
    return span(low / RANGE, high * RANGE)


def span(low: float, high: float) -> str:
    """Two times in the unit of the larger one: ``3-7 s``, ``4-14 min``, ``1.5-4 h``."""
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if high >= 2 * size or unit == "s")
    return f"{low / size:.2g}-{high / size:.2g} {unit}" if high < 99 * size else f"{low / size:.0f}-{high / size:.0f} {unit}"
