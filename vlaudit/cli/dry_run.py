"""What ``scan --dry-run`` shows: the passes and the time that a plan would take, a table a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlaudit.audit.plan import Plan


def show_plan(plan: Plan, device: Any) -> None:
    """Print what would run on ``device``, and what would not and why."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlaudit.reporting import duration, log_line

    console = Console()
    total = 0.0
    width = max(len(planned.probe) for planned in plan.planned)
    for target in dict.fromkeys(planned.target for planned in plan.planned):
        table = Table(
            box=None, pad_edge=False, header_style="bold", title=Text(log_line(target), "bold"), title_justify="left"
        )
        table.add_column("probe", width=width)
        for column in ("cases", "arms", "pictures forward", "texts", "backward", "time"):
            table.add_column(column, justify="right", min_width=len(column))
        missing = []
        for planned in (planned for planned in plan.planned if planned.target == target):
            if planned.reason:
                missing.append(f"  not assessed: {planned.probe}: {log_line(planned.reason)}")
                continue
            seconds = sum(unit.weight for unit in planned.units)
            total += seconds
            costs = [plan.costs[unit.id] for unit in planned.units]
            cases = {case for unit in planned.units for case in unit.cases}
            table.add_row(
                planned.probe, f"{len(cases):,}", str(len({unit.arm for unit in planned.units})),
                f"{sum(cost.queries - cost.texts for cost in costs):,}", f"{sum(cost.texts for cost in costs):,}",
                f"{sum(cost.gradient_steps for cost in costs):,}", duration(seconds),
            )  # fmt: skip
        console.print(table)
        for line in missing:
            console.print(Text(line, "dim"))
        console.print()
    console.print(f"Estimated {duration(total)} in all on {device}, from a short calibration of the loaded models.")
