"""What is said of a probe, once: ``vlaudit explain`` prints it, and the documentation site makes a page of it."""

from __future__ import annotations

from dataclasses import dataclass

from vlaudit.probe import Probe, ProbeInfo
from vlaudit.probe.sections import HEADINGS, Section, sections

__all__ = ["HEADINGS", "Parameter", "Section", "expected", "facts", "parameters", "sections", "thresholds"]

@dataclass(frozen=True)
class Parameter:
    """A typed field of a probe, settable in ``vlaudit.toml``."""

    name: str
    kind: str
    default: str
    description: str


def facts(info: ProbeInfo) -> dict[str, str]:
    """Risk, families and needs of a probe, in words."""
    said = {
        "risk": info.risk.value,
        "families": ", ".join(sorted(info.families)),
        "needs": ", ".join(sorted(need.value for need in info.needs)) or "nothing special",
    }
    return said


def thresholds(info: ProbeInfo) -> list[tuple[str, str, str, str]]:
    """Every number of a probe that decides a verdict: its key in the policy, its value, what it means and where it comes from."""
    own = [] if info.threshold is None else [(info.id, info.threshold, info.threshold_meaning, info.threshold_source)]
    more = [(f"{info.id}.{t.name}", t.value, t.meaning, t.source) for t in info.thresholds]
    return [(key, f"{value:.4g}", meaning, source) for key, value, meaning, source in (*own, *more)]


def parameters(probe_class: type[Probe]) -> list[Parameter]:
    """The parameters of a probe, in the order of the class."""
    return [
        Parameter(
            name=name,
            kind=_name_of_type(field.annotation),
            default=repr(field.default),
            description=field.description or "",
        )
        for name, field in probe_class.model_fields.items()
    ]


def _name_of_type(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def expected(probe: str) -> dict[str, str]:
    """The bundled specimens whose ``expects`` names the probe, and the verdict that their recipe fixes."""
    from vlaudit.zoo import specimens

    return {specimen.name: specimen.expects[probe] for specimen in specimens() if probe in specimen.expects}
