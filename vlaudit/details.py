"""What a finding may tell beside its metric, in types that every report can show: curves, bars, tables, matrices and facts.

``details`` of a judgement is an object. Its keys ``curve``, ``bars``, ``table`` and ``matrix`` hold one series or a list of them; any other key
is a fact: a number, a text, a flag, a list of those, or a :class:`Figure`. ``controls`` holds facts alone; a figure among them is the
metric on a control arm. Evidence of the kind ``plot-data`` is a JSON file of the same form as ``details``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    RootModel,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

LARGEST = 1e300  # beyond, what is computed from a number may be infinite
Number = int | float
Scalar = bool | int | float | str | None


def check_finite(value: Any, where: str) -> None:
    """Raise ValueError for a number in a JSON value that is not finite, or as good as that, and for what is no JSON value: an
    array's element may hide such a number."""
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        said = f"{value}" if isinstance(value, float) else "too large"
        raise ValueError(f"the value '{where}' is {said}: the model yields numbers that are not finite")
    if isinstance(value, _Part):
        value = value.model_dump(warnings=False)
    if isinstance(value, dict):
        for key, item in value.items():
            check_finite(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            check_finite(item, where)
    elif not isinstance(value, Scalar):
        raise ValueError(f"the value '{where}' is of the type {type(value).__name__}, which is none of JSON")


class _Part(BaseModel):
    """Stored as it was given: what was left out is not filled in."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}


class Figure(_Part):
    """A measured number with its interval: the metric on a control arm, or a second quantity."""

    value: Number
    ci: tuple[Number, Number]
    n: int | None = None

    @model_validator(mode="after")
    def _ends_in_order(self) -> Self:
        if self.ci[0] > self.ci[1]:
            raise ValueError("the ends of the interval are reversed")
        return self


class Series(_Part):
    """What a report draws or tabulates."""

    title: str = ""

    def _check(self, length: int, *columns: list[Any] | None) -> Self:
        if any(column is not None and len(column) != length for column in columns):
            raise ValueError(f"every list must have {length} entries")
        if (getattr(self, "low", None) is None) != (getattr(self, "high", None) is None):
            raise ValueError("low and high go together")
        return self


class Curve(Series):
    """A line ``y`` over ``x``, with a band ``low`` to ``high`` and the reference's line at the same ``x``."""

    x: list[Number] = Field(min_length=1)
    y: list[Number]
    low: list[Number] | None = None
    high: list[Number] | None = None
    reference: list[Number] | None = None
    xlabel: str = ""
    ylabel: str = ""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        return self._check(len(self.x), self.y, self.low, self.high, self.reference)


class Bars(Series):
    """A bar per label with a whisker ``low`` to ``high``; ``highlight`` holds the positions of bars that stand out."""

    labels: list[str] = Field(min_length=1)
    values: list[Number]
    low: list[Number] | None = None
    high: list[Number] | None = None
    highlight: list[int] = Field(default_factory=list)
    xlabel: str = ""
    ylabel: str = ""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        return self._check(len(self.labels), self.values, self.low, self.high)


class Table(Series):
    """Rows of cells under named columns."""

    columns: list[str] = Field(min_length=1)
    rows: list[list[Scalar]]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        return self._check(len(self.columns), *self.rows)


class Matrix(Series):
    """A number for each pair of a row and a column, in cells of ``values`` with their intervals ``low`` to ``high``; None where there is
    none. ``unit`` as of a metric."""

    rows: list[str] = Field(min_length=1)
    columns: list[str] = Field(min_length=1)
    values: list[list[Number | None]]
    low: list[list[Number | None]] | None = None
    high: list[list[Number | None]] | None = None
    xlabel: str = ""  # what the columns are
    ylabel: str = ""
    unit: str = ""

    @model_validator(mode="after")
    def _same_shape(self) -> Self:
        for cells in filter(None, (self.values, self.low, self.high)):
            if len(cells) != len(self.rows):
                raise ValueError(f"there must be {len(self.rows)} rows of cells")
            self._check(len(self.columns), *cells)
        return self._check(len(self.rows))


KINDS: dict[str, type[Series]] = {"curve": Curve, "bars": Bars, "table": Table, "matrix": Matrix}
"""The keys of ``details`` that hold series."""

Fact = Figure | list[Scalar] | Scalar


class _Named(RootModel[dict[str, Any]], Mapping):
    """Entries by name, in order, to be read like a dict."""

    model_config = ConfigDict(frozen=True)

    def __getitem__(self, name: str) -> Any:
        return self.root[name]

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.root)

    def __len__(self) -> int:
        return len(self.root)


class Facts(_Named):
    """Facts by name. What is no fact, such as an object within an object, is written out as one text."""

    root: dict[str, Fact]

    @model_validator(mode="before")
    @classmethod
    def _told(cls, given: Any) -> Any:
        return _each(given, lambda name, value: as_fact(value))

    def figures(self) -> dict[str, Figure]:
        """Those that are figures, by name."""
        return {name: value for name, value in self.items() if isinstance(value, Figure)}


class Details(_Named):
    """Series and facts by name; see the module."""

    root: dict[str, Curve | Bars | Table | Matrix | list[Curve] | list[Bars] | list[Table] | list[Matrix] | Fact]

    @model_validator(mode="before")
    @classmethod
    def _told(cls, given: Any) -> Any:
        return _each(given, _as_detail)

    def series(self) -> list[Series]:
        """All series, in order."""
        return [item for value in self.root.values() for item in _listed(value) if isinstance(item, Series)]

    def facts(self) -> dict[str, Fact]:
        """All else, by name."""
        return {name: value for name, value in self.items() if not any(isinstance(v, Series) for v in _listed(value))}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _each(given: Any, told: Callable[[str, Any], Any]) -> Any:
    """Every entry of an object as ``told``. Raises ValueError as ``check_finite`` does, and for depth."""
    if not isinstance(given, dict):
        return given
    try:
        check_finite(given, "details")
        return {name: told(name, value) for name, value in given.items()}
    except RecursionError as error:
        raise ValueError("the details are nested too deeply") from error


def _as_detail(name: str, value: Any) -> Any:
    """A series under its key; what is malformed is told as a fact: shown, never dropped."""
    if name in KINDS:
        kind = KINDS[name]
        try:
            parts = [kind.model_validate(item) for item in _listed(value)]
        except ValidationError:
            return as_fact(value)
        return parts if isinstance(value, list) else parts[0]
    return as_fact(value)


def as_fact(value: Any) -> Fact:
    """A JSON value as a fact: an object that is no figure, and a list of lists, become a text."""
    if isinstance(value, Figure | bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, bool | int | float | str | None) for item in value):
        return list(value)
    try:
        return Figure.model_validate(value)
    except ValidationError:
        return in_words(value)


def in_words(value: JsonValue | Any) -> str:
    """A JSON value of any depth on one line: ``name: value; name: value``."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return "; ".join(f"{name}: {in_words(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        inner = [f"({in_words(item)})" if isinstance(item, dict | list | tuple) else in_words(item) for item in value]
        return ", ".join(inner) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return {None: "none", True: "yes", False: "no"}.get(value, str(value)) if value is None or isinstance(value, bool) else str(value)
