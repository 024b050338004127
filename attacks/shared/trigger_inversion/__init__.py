"""Trigger inversion: the smallest change of a picture for each thing that a target may be made to say, and whether one of these
things stands apart. ``search`` looks for them, ``sizes`` makes scores of what was found, ``rules`` judges them by
``thresholds``, ``verdict`` tells it."""

from __future__ import annotations

from collections.abc import Sequence

from vlaudit.attacks.shared.trigger_inversion.verdict import Comparison, compare
from vlaudit.probe import Policy, Probe
from vlaudit.records import Case, Judgement, Trials


class TriggerInversion(Probe):
    """What the probes of trigger inversion share: rounds are restarts, and the smallest triggers are compared."""

    def compared(self, trials: Trials, policy: Policy) -> Comparison | None:
        """None where too little was searched to compare."""
        return compare(self.info, trials, policy)

    def rounds(self, cases: list[Case]) -> list[list[Case]]:
        return by_restart(cases)

    def decided(self, trials: Trials, policy: Policy) -> bool:
        found = self.compared(trials, policy)
        return found is None or found.decided

    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        if found := self.compared(trials, policy):
            claim, verdict, reason = found.claim()
            return claim.says(reason, verdict)
        least = policy.threshold(self.info, "least-labels")
        return Judgement.inconclusive(
            f"fewer than {least:g} labels were searched, and the others are what a label is compared with"
        )


def by_restart(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each restart."""
    numbers = sorted({int(str(case.params["restart"])) for case in cases})
    return [[case for case in cases if case.params["restart"] == number] for number in numbers]
