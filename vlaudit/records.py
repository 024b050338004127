"""What an audit writes down: cases, trials, findings, and the report. Torch-free, JSON in and out.

The vocabulary: a *case* is one thing to try; a *trial* is its recorded outcome on one *arm* (``target``, ``reference``,
``control:NAME`` or ``null:K``), never a verdict; a *judgement* is what a probe's pure judge says of its trials; a
*finding* is a judgement with its severity, evidence and provenance; an *audit* is one run; a *report* renders it.

All metrics are oriented so that bigger is worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from vlaudit.details import Details, Facts, check_finite

SCHEMA_VERSION = "1.4"  # 1.3 had no cover and no passed of an audit and no unlisted of data, 1.2 had no headline, impact, remedy and threshold_source of findings and no unread of data, 1.1 no matrix among the details, 1.0 no Metric.null and no Metric.measure
TARGET, REFERENCE = "target", "reference"
MOST_TARGETS, MOST_FINDINGS = 1_000, 20_000  # of one audit: what reports can be made of


class Risk(StrEnum):
    ROBUSTNESS = "robustness"
    BACKDOOR = "backdoor"
    BIAS = "bias"
    PRIVACY = "privacy"


class Family(StrEnum):
    """The three families of the survey arXiv:2307.12980."""

    MATCHING = "image-text-matching"
    GENERATION = "multimodal-to-text"
    TEXT_TO_IMAGE = "text-to-image"


class Needs(StrEnum):
    """What a probe needs of the target or of the data. What is missing makes the finding ``not-assessed``."""

    # of the target
    FILES = "files on disk"  # the model's or prompt's files; the only need that an unloadable model can meet
    SCORES = "scores"
    FEATURES = "features of pictures and of texts"  # a score is their cosine
    PIXEL_GRADIENTS = "pixel gradients"
    LEARNED_PROMPT = "a learned prompt"
    GENERATED_PICTURES = "generated pictures"
    SCORER = "a scorer of its pictures"  # a matcher that the user, the specimen or its accuracy on the data vouches for
    NOISE_PREDICTIONS = "noise predictions"
    TEXT_FEATURES = "text features"
    EMBEDDING_GRADIENTS = "token-embedding gradients"
    IMAGE_LATENTS = "an image encoder"
    CROSS_ATTENTION = "cross-attention maps"
    GUIDANCE = "classifier-free guidance"
    PERSONAL_TOKEN = "a personal token"
    ANSWERS = "generated answers"
    TOKEN_LOGITS = "next-token distributions"
    ATTENTION = "attention weights"
    CONTEXT = "demonstrations or documents in the prompt"
    CHAT_TEMPLATE = "a chat template"
    # of the data
    IMAGES = "pictures"
    LABELS = "labelled pictures"
    GROUPS = "a group column"
    MEMBERS = "declared members and non-members"
    CAPTIONS = "captions"
    CAPTIONED_PICTURES = "captioned pictures"
    QUESTIONS = "questions with answers"
    PAIRS = "counterfactual pairs"


class Compares(StrEnum):
    """What a probe looks at together, because one target alone cannot answer. Such a probe makes one finding of a whole set."""

    PROMPTS = "the prompts of one model"  # those of the audit on the same data, and their references
    TARGETS = "the targets of the audit"  # of the probe's families on the same data, whatever their models


OF_THE_DATA = frozenset({
    Needs.IMAGES, Needs.LABELS, Needs.GROUPS, Needs.MEMBERS, Needs.CAPTIONS, Needs.CAPTIONED_PICTURES, Needs.QUESTIONS, Needs.PAIRS,
})  # fmt: skip
OF_WHAT_IS_SAID = OF_THE_DATA - {Needs.IMAGES}  # of pictures: by a row of the metadata or the folder that they are in


class Verdict(StrEnum):
    VULNERABLE = "vulnerable"
    HELD = "held"
    INCONCLUSIVE = "inconclusive"
    NOT_ASSESSED = "not-assessed"


class Severity(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    NONE = "none"

    @property
    def rank(self) -> int:
        """0 for none up to 4 for critical."""
        return ["none", "low", "medium", "high", "critical"].index(self.value)


class Measure(StrEnum):
    """What kind of number a metric is, and so where it lies without the flaw: its *null*. How grave a finding is depends on how far from
    the null it lies."""

    SHARE = "share"  # 0, or what the judge measured without the flaw
    DIFFERENCE = "difference"
    AUC = "auc"
    RATIO = "ratio"  # distances on the log scale
    LOG_RATIO = "log-ratio"
    OTHER = "other"

    @property
    def null(self) -> float:
        return {Measure.AUC: 0.5, Measure.RATIO: 1.0}.get(self, 0.0)

    def distance(self, value: float, null: float) -> float:
        """How far ``value`` lies from the null, on the scale on which this kind of number is compared."""
        if self is Measure.RATIO:
            return math.log(value / null) if value > 0 < null else -math.inf
        return value - null


class Record(BaseModel):
    """Base of all records: immutable, and closed so that a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


MOST_SECONDS = 1e12
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS)]  # that a file of an audit tells, and with which is reckoned


class Threshold(Record):
    """A number that decides a verdict beside the metric's own threshold. The policy may set it, under ``PROBE.NAME``."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    value: float
    meaning: str = Field(min_length=10)  # in plain words, with the unit
    source: str = Field(min_length=10)  # a paper or standard, or "our choice, because ..."
    relaxed_by: Literal["raising", "lowering", "changing"] = "changing"  # which change may let pass what was stopped


class BuiltIn(Record):
    """A number built into a statistic, which no policy sets. Modules list theirs as ``BUILT_IN``, by the name of the constant."""

    meaning: str = Field(min_length=10)  # in plain words, with the unit
    source: str = Field(min_length=10)  # a paper or standard, or "our choice, because ..."


class ProbeInfo(Record):
    """A probe's fixed facts, as listed by ``vlaudit list probes``."""

    id: str
    code: str
    title: str
    risk: Risk
    families: frozenset[Family]
    needs: frozenset[Needs] = frozenset()
    compares: Compares | None = None  # None: each target is looked at alone
    threshold: float | None = None  # default of the policy's threshold for this probe
    threshold_meaning: str = ""
    threshold_source: str = ""  # a paper or standard, or "our choice, because ..."
    thresholds: tuple[Threshold, ...] = ()  # what else decides
    measure: Measure = Measure.OTHER  # what kind of number the metric is
    references: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()  # "framework:identifier", such as "atlas:AML.T0043"
    limits: str = ""  # what `held` does not prove, one sentence for the report
    headline: str = ""  # what happens where the flaw is, in plain words and one clause
    impact: str = ""  # why that matters; by default the page's threat
    remedy: str = ""  # what to do about it; by default what the page says
    unsafe_severity: bool = False  # an unsafe file, which the severity table ranks by its own row
    version: str = "1"  # raise it when trials of older audits can no longer be judged


class Case(Record):
    """One thing to try: cheap, deterministic, with an id that is unique in its probe."""

    id: str
    params: dict[str, JsonValue] = Field(default_factory=dict)


class Evidence(Record):
    """A content-addressed file of the audit folder that a reader can look at."""

    kind: Literal["image", "text", "plot-data"]
    path: str  # relative to the audit folder: artifacts/…
    sha256: str
    caption: str = ""
    sensitive: bool = False


class Cost(Record):
    """What was spent, or will be: passes through the model by kind, each of which has a price of its own."""

    queries: int = 0  # passes forward: of pictures, of conversations as far as they are read, of the denoiser, or of texts
    gradient_steps: int = 0  # of the queries, those passed backward too
    texts: int = 0  # of the queries, those that a text encoder alone read: no pictures, and they take less time
    text_steps: int = 0  # of the gradient steps, those of texts
    tokens: int = 0  # written in answers, each a short pass
    decoded: int = 0  # pictures made of latents, or latents of pictures
    seconds: float = 0.0

    @property
    def passes(self) -> int:
        """Passes forward that are no texts."""
        return self.queries - self.texts

    def __add__(self, other: Cost) -> Cost:
        mine, theirs = self.__dict__, other.__dict__
        return Cost(**{name: mine[name] + theirs[name] for name in Cost.model_fields})

    def __sub__(self, other: Cost) -> Cost:
        mine, theirs = self.__dict__, other.__dict__
        return Cost(**{name: mine[name] - theirs[name] for name in Cost.model_fields})

    def __mul__(self, times: int) -> Cost:
        return Cost(**{name: value * times for name, value in self.__dict__.items()})


class Reduced(Record):
    """One thing of which a probe tries fewer than it would without a budget."""

    what: str  # a plural, such as "pictures"
    tried: int
    of: int
    searched: bool = False  # what is left out was not searched at all: then nothing can be held

    def __str__(self) -> str:
        return f"{self.tried:,} of {self.of:,} {self.what}"


def alike(first: object, second: object) -> bool:
    """Whether two recorded values are equal but for the last bits of floats, in which batches and machines differ."""
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-3, abs_tol=1e-4)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)
    return first == second


class Trial(Record):
    """The recorded outcome of one case on one arm: numbers, texts, artefacts, cost. Never a verdict."""

    case: str
    arm: str
    values: dict[str, JsonValue] = Field(default_factory=dict)
    artifacts: dict[str, Evidence] = Field(default_factory=dict)
    cost: Cost = Cost()

    @field_validator("arm")
    @classmethod
    def _known_arm(cls, arm: str) -> str:
        if arm not in (TARGET, REFERENCE) and not arm.startswith(("control:", "null:")):
            raise ValueError(f"unknown arm '{arm}': use target, reference, control:NAME or null:K")
        return arm

    @field_validator("values")
    @classmethod
    def _finite(cls, values: dict[str, JsonValue]) -> dict[str, JsonValue]:
        check_finite(values, "values")
        return values

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


class Trials:
    """The trials of one probe on one target, grouped by arm and paired by case id."""

    def __init__(self, trials: Iterable[Trial], *, reference_note: str | None = None) -> None:
        """``reference_note``: why there is no reference arm (such as "the target is the reference"), else None."""
        self._trials = list(trials)
        self.reference_note = reference_note

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def arm(self, arm: str) -> list[Trial]:
        """Trials of one arm, in the order of their case ids (an order that no executor can change)."""
        return sorted((t for t in self._trials if t.arm == arm), key=lambda t: t.case)

    @property
    def target(self) -> list[Trial]:
        return self.arm(TARGET)

    @property
    def reference(self) -> list[Trial]:
        return self.arm(REFERENCE)

    def control(self, name: str) -> list[Trial]:
        return self.arm(f"control:{name}")

    def nulls(self) -> list[Trial]:
        """All trials of ``null:K`` arms, ordered by arm, then case."""
        return sorted((t for t in self._trials if t.arm.startswith("null:")), key=lambda t: (t.arm, t.case))

    def paired(self, first: str = TARGET, second: str = REFERENCE) -> list[tuple[Trial, Trial]]:
        """Pairs of trials of the same case on two arms; cases that lack one of them are left out."""
        other = {t.case: t for t in self.arm(second)}
        return [(t, other[t.case]) for t in self.arm(first) if t.case in other]


class Metric(Record):
    """The measured quantity with its interval. Bigger is worse."""

    name: str
    value: float
    ci: tuple[float, float]
    level: float = Field(0.95, ge=0.01, le=1 - 1e-9)
    n: int
    unit: str = ""
    measure: Measure = Measure.OTHER
    null: float = 0.0  # where it lies without the flaw


class Estimate(Record):
    value: float
    ci: tuple[float, float]


class Delta(Record):
    """Target minus reference, paired."""

    value: float
    ci: tuple[float, float]
    p: float | None = None


class Judgement(Record):
    """What a probe's pure judge says: the verdict with its figures, before severity and provenance."""

    verdict: Verdict
    reason: str
    metric: Metric | None = None
    threshold: float | None = None
    reference: Estimate | None = None
    delta: Delta | None = None
    p_value: float | None = None
    controls: Facts = Facts({})
    evidence: list[Evidence] = Field(default_factory=list)
    details: Details = Details({})
    headline: str = ""  # what happens, in plain words, where the judge can be more precise than the probe's own headline

    @classmethod
    def not_assessed(cls, reason: str, **figures: Any) -> Judgement:
        return cls(verdict=Verdict.NOT_ASSESSED, reason=reason, **figures)

    @classmethod
    def inconclusive(cls, reason: str, **figures: Any) -> Judgement:
        return cls(verdict=Verdict.INCONCLUSIVE, reason=reason, **figures)


class Suppression(Record):
    """Why a finding does not stop a pipeline for now."""

    reason: str
    owner: str
    expires: str  # ISO date
    ticket: str = ""
    file: str = ""  # the file that accepts it, as the command line named it


class Finding(Record):
    """The judged claim of one probe on one target, as it stands in ``report.json``."""

    id: str
    probe: str
    code: str
    title: str
    risk: Risk
    target: str
    related_targets: list[str] = Field(default_factory=list)
    verdict: Verdict
    reason: str
    severity: Severity
    severity_derivation: str = ""
    suppressed: Suppression | None = None
    change: str | None = None  # since the baseline: new, worse, unchanged ...; null without one
    metric: Metric | None = None
    threshold: float | None = None
    threshold_meaning: str = ""
    threshold_source: str = ""
    reference: Estimate | None = None
    delta: Delta | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    controls: Facts = Facts({})
    details: Details = Details({})
    evidence: list[Evidence] = Field(default_factory=list)
    cost: Cost = Cost()
    references: list[str] = Field(default_factory=list)
    mappings: list[str] = Field(default_factory=list)
    limits: str = ""
    headline: str = ""  # what happens, in plain words; empty where nothing was found
    impact: str = ""  # why the flaw matters
    remedy: str = ""  # what to do about it
    reproduce: str = ""


class ModelInfo(Record):
    spec: str
    sha256: str | None = None  # of the weights; null when the model could not be loaded
    revision: str | None = None  # the commit of the hub's repository; null for what lies on disk
    dtype: str | None = None  # the precision that it computes in; null where it runs elsewhere
    notes: list[str] = Field(default_factory=list)  # sentences on how it was loaded


class PromptInfo(Record):
    id: str
    method: str
    text: str = ""
    sha256: str | None = None  # of the prompt file; null for hard prompts
    path: str | None = None  # the file or folder as it was named; null for hard prompts


class DataInfo(Record):
    source: str
    examples: int
    labels: list[str] = Field(default_factory=list)
    groups: list[str] = Field(default_factory=list)
    members: int = 0
    captions: int = 0  # distinct texts to draw, of a text-to-image target
    sha256: str | None = None
    notes: list[str] = Field(default_factory=list)  # sentences on what was left out, cut or is not read as it is written
    unread: int = 0  # pictures that could not be read
    unread_share: float = 0.0  # the greatest share of them: of all pictures, or of those of one label
    unlisted: int = 0  # pictures that have no row in the metadata, or lie outside the folders of the labels
    unlisted_share: float = 0.0  # of all pictures


class Place(Record):
    """A line of a file that a repository may hold."""

    file: str  # relative to the folder that the audit was started in, with forward slashes
    line: int = Field(ge=1)


class TargetInfo(Record):
    """One audited target: a model under a prompt, with the data it was audited on."""

    id: str
    family: Family
    model: ModelInfo
    prompt: PromptInfo
    reference: str | None = None  # id of the reference subject; null when the target is its own reference
    reference_note: str | None = None
    data: DataInfo | None = None
    scorer: str | None = None  # what names the pictures that a text-to-image target draws
    declared: Place | None = None  # the table of vlaudit.toml that names it; null where the command line does
    wordings: list[str] = Field(default_factory=list)  # the first texts that its prompt makes of the captions
    error: str | None = None  # why it could not be loaded

    @property
    def notes(self) -> list[str]:
        """Sentences on how the model was loaded, and on what of the data was left out, cut or is not read as it is written."""
        return [*self.model.notes, *(self.data.notes if self.data else [])]


class ToolInfo(Record):
    name: str = "vlaudit"
    version: str


class Cover(Record):
    """What the people say who file an audit; nothing of it is measured."""

    system: str = Field("", description="the system that the model is a part of")
    version: str = Field("", description="its version or release")
    purpose: str = Field("", description="what it is for, and for whom")
    organisation: str = Field("", description="who provides or deploys it")
    assessor: str = Field("", description="who assessed it")


class AuditInfo(Record):
    id: str
    started: str
    finished: str | None = None
    complete: bool = False
    seed: int = 0
    effort: str = "quick"
    budget: float | None = None  # seconds of work that were divided among the probes; null for no end
    command: str = ""
    environment: dict[str, JsonValue] = Field(default_factory=dict)
    policy: dict[str, JsonValue] = Field(default_factory=dict)
    fail_on: Severity = Severity.HIGH  # the gate that the exit code follows
    strict: bool = False
    baseline: str | None = None  # id of the audit that the findings are compared with
    only_new: bool = False  # what the baseline had already does not stop a pipeline
    cover: Cover = Cover()
    notes: list[str] = Field(default_factory=list)  # what files found beside the command left out or changed, one sentence each
    errors: list[str] = Field(default_factory=list)  # units that did not finish, one sentence each
    passed: Cost | None = None  # what passed through the models; findings count what they asked for, remembered or not


class Report(Record):
    """``report.json``: everything a reader or another program needs of an audit."""

    schema_version: str = SCHEMA_VERSION
    tool: ToolInfo
    audit: AuditInfo
    targets: list[TargetInfo]
    findings: list[Finding]
    checksum: str | None = None  # over the bytes before it, see checksums.py; null in memory, and where none was written
