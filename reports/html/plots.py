"""Geometry of the plots: from figures to places, shades and texts. The drawing is in ``plots.html``.

Places are percentages of the room there is, so that a plot is as wide as the screen; labels and figures are text of the page, which
wraps and is never cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from vlaudit.details import Bars, Curve, Figure, Matrix
from vlaudit.records import Estimate, Finding, Metric
from vlaudit.reporting import interval, log_line, number

SIDE = 15  # percent from an end at which a text above the axis is no longer centred
MAX_BARS = 40
MAX_CELLS = 24  # rows and columns of a heat map that are shown
HEATS = 8  # shades of it
TICK_GAP = 18  # percent: least distance of two ticks, of which five fit a phone

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Tick:
    at: float
    text: str

    @property
    def anchor(self) -> str:
        """How a text at this place stays within the room."""
        return "start" if self.at < SIDE else "end" if self.at > 100 - SIDE else "middle"


@dataclass(frozen=True)
class Row:
    """One estimate: ``kind`` is ``target``, ``reference`` or ``control``."""

    label: str
    kind: str
    x: float
    low: float
    high: float
    figures: str


@dataclass(frozen=True)
class IntervalPlot:
    title: str
    rows: list[Row]
    ticks: list[Tick]
    threshold: Tick | None


@dataclass(frozen=True)
class Bar:
    label: str
    x: float
    width: float
    low: float | None
    high: float | None
    highlight: bool
    figures: str


@dataclass(frozen=True)
class BarPlot:
    title: str
    xlabel: str
    ylabel: str
    bars: list[Bar]
    left_out: int
    zero: float
    ticks: list[Tick]
    columns: list[str]
    data: list[list[str]]


@dataclass(frozen=True)
class CurvePlot:
    title: str
    xlabel: str
    ylabel: str
    line: str
    points: list[tuple[float, float]]
    band: str
    reference: str
    xticks: list[Tick]
    yticks: list[Tick]
    columns: list[str]
    data: list[list[str]]


@dataclass(frozen=True)
class Head:
    """What stands before a row or above a column, and where it leads; nowhere if ``href`` is empty."""

    text: str
    href: str = ""


@dataclass(frozen=True)
class HeatCell:
    value: str
    ends: str
    heat: int  # 0 to HEATS


@dataclass(frozen=True)
class HeatMap:
    title: str
    xlabel: str
    ylabel: str
    columns: list[Head]
    heat_rows: list[tuple[Head, list[HeatCell]]]
    left_out: int


def interval_plot(finding: Finding) -> IntervalPlot | None:
    """The metric with its interval, the reference and the control arms on one axis; None where all coincide."""
    metric = finding.metric
    if metric is None:
        return None
    estimates: list[tuple[str, str, Metric | Estimate | Figure]] = [("this target", "target", metric)]
    if finding.reference:
        estimates.append(("reference prompt", "reference", finding.reference))
    estimates += [(name, "control", control) for name, control in finding.controls.figures().items()]
    limits = [] if finding.threshold is None else [finding.threshold]
    values = limits + [v for _, _, estimate in estimates for v in (estimate.value, *estimate.ci)]
    if min(values) == max(values) or not all(map(math.isfinite, values)):
        return None
    scale, ticks = _axis(values, 0, 100, metric.unit)
    rows = [
        Row(
            label=name,
            kind=kind,
            x=scale(estimate.value),
            low=scale(estimate.ci[0]),
            high=scale(estimate.ci[1]),
            figures=interval(estimate, metric.unit),
        )
        for name, kind, estimate in estimates
    ]
    threshold = None
    if finding.threshold is not None:
        threshold = Tick(scale(finding.threshold), f"threshold {number(finding.threshold, metric.unit)}")
    return IntervalPlot(metric.name, rows, ticks, threshold)


def bar_plot(series: Bars) -> BarPlot:
    """Horizontal bars, because labels are words. Only ``MAX_BARS`` are drawn (highlighted ones first); the data table
    under the plot has all."""
    low, high = series.low or [], series.high or []
    marked = set(series.highlight)
    order = sorted(range(len(series.labels)), key=lambda i: i not in marked)[:MAX_BARS]
    shown = sorted(order)
    scale, ticks = _axis([0.0, *(v for i in shown for v in (series.values[i], *low[i : i + 1], *high[i : i + 1]))],
                         0, 100)  # fmt: skip
    zero = scale(0.0)
    bars = []
    for i in shown:
        end = scale(series.values[i])
        bars.append(
            Bar(
                label=log_line(series.labels[i], 60),
                x=min(zero, end),
                width=round(abs(end - zero), 1),
                low=scale(low[i]) if low else None,
                high=scale(high[i]) if low else None,
                highlight=i in marked,
                figures=_bar_figures(series, i),
            )
        )
    columns = [series.xlabel or "label", series.ylabel or "value", *(["low", "high"] if low else [])]
    data = [
        [label, *(number(column[i]) for column in (series.values, low, high) if column)]
        for i, label in enumerate(series.labels)
    ]
    left_out = len(series.labels) - len(shown)
    title = series.title or f"{columns[1]} by {columns[0]}"
    return BarPlot(title, series.xlabel, series.ylabel, bars, left_out, zero, ticks, columns, data)


def _bar_figures(series: Bars, i: int) -> str:
    if series.low is None or series.high is None:
        return number(series.values[i])
    largest = max(map(abs, (*series.values, *series.low, *series.high)))
    return interval(Estimate(value=series.values[i], ci=(series.low[i], series.high[i])), scale=largest)


def heat_map(series: Matrix, links: Mapping[str, str]) -> HeatMap:
    """A table whose cells are shaded by their values, from the least to the largest (of shares, from none to all). ``links``: by the
    names of rows and columns."""
    known = [value for row in series.values for value in row if value is not None]
    low, high = (0.0, 1.0) if series.unit == "share" else (min(known, default=0.0), max(known, default=1.0))

    def cell(value: float | None, ends: tuple[float, float] | None) -> HeatCell:
        if value is None:
            return HeatCell("–", "", 0)
        shade = (value - low) / (high - low) if high > low else 0.0
        whole = interval(Estimate(value=value, ci=ends or (value, value)), series.unit)
        said, _, rest = whole.partition(" [")
        return HeatCell(said, f"[{rest}" if ends else "", round(HEATS * min(max(shade, 0.0), 1.0)))

    def ends(row: int, column: int) -> tuple[float, float] | None:
        if series.low is None or series.high is None:
            return None
        a, b = series.low[row][column], series.high[row][column]
        return None if a is None or b is None else (a, b)

    heads = [[Head(log_line(name, 60), links.get(name, "")) for name in names[:MAX_CELLS]] for names in (series.rows, series.columns)]
    rows = [
        (head, [cell(value, ends(i, j)) for j, value in enumerate(series.values[i][:MAX_CELLS])]) for i, head in enumerate(heads[0])
    ]
    left_out = max(len(series.rows) - MAX_CELLS, 0) + max(len(series.columns) - MAX_CELLS, 0)
    return HeatMap(series.title, series.xlabel, series.ylabel, heads[1], rows, left_out)


def curve_plot(series: Curve) -> CurvePlot:
    """A line with its band, and the reference's line dashed."""
    low, high, reference = series.low or [], series.high or [], series.reference or []
    across, xticks = _axis(series.x, 0, 100)
    up, yticks = _axis([*series.y, *low, *high, *reference], 100, 0)

    def path(values: Iterable[float], xs: Iterable[float] = series.x) -> str:
        return " ".join(f"{across(x)},{up(y)}" for x, y in zip(xs, values, strict=True))

    named = [(series.xlabel or "x", series.x), (series.ylabel or "y", series.y), ("low", low), ("high", high), ("reference", reference)]
    shown = [(name, values) for name, values in named if values]
    return CurvePlot(
        title=series.title or f"{series.ylabel or 'y'} over {series.xlabel or 'x'}",
        xlabel=series.xlabel,
        ylabel=series.ylabel,
        line=path(series.y),
        points=[(across(x), up(y)) for x, y in zip(series.x, series.y, strict=True)],
        band=f"{path(high)} {path(low[::-1], series.x[::-1])}" if low else "",
        reference=path(reference) if reference else "",
        xticks=xticks,
        yticks=yticks,
        columns=[name for name, _ in shown],
        data=[[number(values[i]) for _, values in shown] for i in range(len(series.x))],
    )


def _axis(values: Iterable[float], start: float, end: float, unit: str = "") -> tuple[Scale, list[Tick]]:
    """A linear scale from ``start`` to ``end`` (percent) over all values and, when it is near, zero; and round ticks."""
    values = list(values)
    low, high = min(values), max(values)
    span = high - low
    if low - span <= 0 <= high + span:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1e-300):  # one value, but for its last bits
        reach = max(0.5, 1e-6 * abs(high))
        low, high = low - reach, high + reach
    pad = 0.04 * (high - low)
    bottom, top = (low if low == 0 else low - pad), high + pad

    def scale(value: float) -> float:
        return round(start + (value - bottom) / (top - bottom) * (end - start), 1)

    step = _round_step((top - bottom) * TICK_GAP / abs(end - start))
    first = math.ceil(bottom / step)
    count = math.floor(top / step) - first + 1
    marks = [step * (first + i) for i in range(count)]
    return scale, [Tick(scale(mark), _tick_text(mark, step, unit)) for mark in marks]


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5, 5 and 10 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _tick_text(mark: float, step: float, unit: str) -> str:
    if unit == "share":
        mark, step = 100 * mark, 100 * step
    mark = 0.0 if abs(mark) < step / 1e6 else mark
    return f"{mark:.10g} %" if unit == "share" else f"{mark:.6g}"
