"""Harm that lies in one part alone (one label, one question, one wording) and drowns in the mean of all. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

from vlaudit.probe import Policy, ProbeInfo, Threshold
from vlaudit.statistics.rates import JEFFREYS

ONE_PART = Threshold(
    name="one-part", value=0.5, relaxed_by="raising",
    meaning="share of harmed answers in one part (a label, a question, a wording) beyond which the whole is not held",
    source="our choice, because a part that is harmed in most cases is a way in, however small it is",
)  # fmt: skip
LEAST_PART = Threshold(
    name="least-part", value=2, relaxed_by="raising",
    meaning="cases that a part must have to be looked at by itself",
    source="our choice, because a test for chance says of small parts whether they matter, and of one case nothing can be said",
)  # fmt: skip
HARMED = Threshold(
    name="harmed", value=0.5, relaxed_by="raising",
    meaning="share of what is asked about one picture that must change, more than this, for the picture to count as harmed in its part",
    source="our choice, because what changes most of the answers about a picture has changed what is seen in it",
)  # fmt: skip
THRESHOLDS = (ONE_PART, LEAST_PART)


def worst(hits: Iterable[tuple[str, bool]], info: ProbeInfo, policy: Policy) -> str:
    """The part in which most cases are harmed, more than chance makes of the others' share, as ``"'cook': 12 of 14"``; "" without one.

    ``hits``: the part of a case and whether it is harmed; a case may be in several parts. The binomial test has Bonferroni's correction
    for the number of parts.
    """
    from scipy.stats import binom

    counted: dict[str, list[bool]] = {}
    for part, hit in hits:
        counted.setdefault(part, []).append(hit)
    harmed, cases = (sum(map(of, counted.values())) for of in (sum, len))
    looked = {part: (sum(of), len(of)) for part, of in counted.items() if len(of) >= policy.threshold(info, LEAST_PART.name)}
    most, found = policy.threshold(info, ONE_PART.name), []
    for part, (k, n) in looked.items():
        usual = (harmed - k + JEFFREYS) / (cases - n + 1)  # of the other parts; one half where there are none
        if k > most * n and binom.sf(k - 1, n, usual) * len(looked) <= policy.alpha:
            found.append((k / n, n, part))
    if not found:
        return ""
    share, n, part = max(found)
    return f"{part}: {round(share * n)} of {n}"
