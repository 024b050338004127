"""The plugin contract: a probe makes cases, attempts them on a target, and judges the recorded trials.

    @probe(id="typographic", code="MR4", risk=Risk.ROBUSTNESS, families={Family.MATCHING}, needs={Needs.LABELS})
    class Typographic(Probe):
        size: float = Field(0.25, gt=0, le=1, description="height of the word, as a share of the picture's")

        def cases(self, ctx): ...            # cheap and deterministic; no model pass
        def attempt(self, ctx, cases): ...   # expensive; yields trials through ctx.trial(...)
        def judge(self, trials, policy): ... # pure: no model, no torch

Parameters are typed fields: validated, settable in ``vlaudit.toml``, and listed by ``vlaudit explain``. The module's
docstring is the probe's documentation page. Plugins are found by the entry-point group ``vlaudit.probes``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from vlaudit.policy import Policy
from vlaudit.probe.claim import Claim, chance, figure, share, would_decide
from vlaudit.probe.context import Context
from vlaudit.probe.sections import section
from vlaudit.records import (
    BuiltIn,
    Case,
    Compares,
    Cost,
    Family,
    Judgement,
    Measure,
    Needs,
    ProbeInfo,
    Risk,
    Threshold,
    Trial,
    Trials,
)

__all__ = [
    "BuiltIn", "Claim", "Compares", "Context", "Measure", "Needs", "Policy", "Probe", "ProbeInfo", "Threshold", "chance", "figure", "probe",
    "share", "would_decide",
]  # fmt: skip


class Probe(BaseModel):
    """Base class of all probes. Subclasses are decorated with :func:`probe`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    info: ClassVar[ProbeInfo]
    cases_per_unit: ClassVar[int] = 32

    def cases(self, ctx: Context) -> list[Case]:
        """The things to try on ``ctx.target``: cheap, deterministic, the same for the target and reference arms."""
        raise NotImplementedError

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        """Try the cases and yield trials. The result of a case must not depend on which others are in the list."""
        raise NotImplementedError

    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        """Pure statistics on the recorded trials. Never called without trials on the target arm."""
        raise NotImplementedError

    def shards(self, cases: list[Case]) -> Iterable[list[Case]]:
        """How cases are cut into units of work, the grain of resuming and of progress: by default ``cases_per_unit`` each."""
        return [cases[i : i + self.cases_per_unit] for i in range(0, len(cases), self.cases_per_unit)]

    def estimate(self, ctx: Context, cases: list[Case]) -> Cost:
        """Passes that attempting these cases on one arm will take, for ``--dry-run`` and the time left."""
        return Cost(queries=len(cases))

    def rounds(self, cases: list[Case]) -> list[list[Case]]:
        """Fixed lists of cases between which the audit may stop early. Default: one round, no early stop."""
        return [cases]

    def decided(self, trials: Trials, policy: Policy) -> bool:
        """Asked between rounds: would more cases be wasted? A probe that says so must judge with intervals valid
        under stopping."""
        return False

    def wants_reference(self) -> bool:
        """Whether the cases are also attempted on the reference prompt. Never asked of a probe that compares: the reference is one
        of its ``ctx.peers``."""
        return True

    def needs_prompt(self) -> bool:
        """Whether what comes out depends on the prompt. Where it does not, what one prompt's units found holds for all prompts of the
        model on the same data."""
        return True

    def tries_elsewhere(self) -> bool:
        """Whether ``ctx.peers`` holds the other prompts of the model on the target arm too, this one first, so that what is found under it
        can be tried under them. It is told, and no verdict hangs on it."""
        return False

    def runs_once(self, cases: list[Case]) -> bool:
        """Whether these cases of a round are attempted once for all prompts of the model, of a probe that ``tries_elsewhere``: all of them are
        ``ctx.peers`` then, in an order that does not hang on whose finding it is, and there is no reference arm."""
        return False

    @classmethod
    def documentation(cls) -> str:
        """The docstring of the probe's module."""
        return (sys.modules[cls.__module__].__doc__ or cls.__doc__ or "").strip()


class _HasInfo(Protocol):
    info: ClassVar[ProbeInfo]


P = TypeVar("P", bound=type[Probe])
_ARXIV = re.compile(r"arXiv:\d{4}\.\d{4,5}")


def probe(
    *,
    id: str,
    code: str,
    risk: Risk,
    families: Iterable[Family],
    title: str = "",
    needs: Iterable[Needs] = (),
    compares: Compares | None = None,
    threshold: float | None = None,
    threshold_meaning: str = "",
    threshold_source: str = "",
    thresholds: Iterable[Threshold] = (),
    measure: Measure = Measure.OTHER,
    references: Iterable[str] = (),
    maps: Iterable[str] = (),
    limits: str = "",
    headline: str = "",
    impact: str = "",
    remedy: str = "",
    unsafe_severity: bool = False,
    version: str = "1",
) -> Callable[[P], P]:
    """Class decorator that states what a probe is; see :class:`ProbeInfo` for the fields. ``references`` are by default the arXiv
    papers that the page cites, ``impact`` its threat and ``remedy`` what it says to do."""

    def decorate(cls: P) -> P:
        page = cls.documentation()
        cls.info = ProbeInfo(
            id=id, code=code, title=title or id.replace("-", " "), risk=risk, families=frozenset(families),
            needs=frozenset(needs), compares=compares, threshold=threshold, threshold_meaning=threshold_meaning,
            threshold_source=threshold_source, thresholds=tuple(thresholds), measure=measure,
            references=tuple(references) or tuple(dict.fromkeys(_ARXIV.findall(section(page, "References")))), maps=tuple(maps),
            limits=limits, headline=headline, impact=impact or section(page, "Threat"), remedy=remedy or section(page, "What to do"),
            unsafe_severity=unsafe_severity, version=version,
        )  # fmt: skip
        return cls

    return decorate
