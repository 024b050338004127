"""Pages made from the code: one for each probe, and lists of what else is installed. What a page says of a probe is what
``vlaudit explain`` prints: its docstring and its declaration, through ``vlaudit.pages``. No torch is imported."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from urllib.parse import quote

import vlaudit.attacks
import vlaudit.statistics
from vlaudit.pages import Section, expected, facts, parameters, sections, thresholds
from vlaudit.plugins import plugins
from vlaudit.policy import NEAR, Policy
from vlaudit.probe import Probe
from vlaudit.records import Family, Measure, Risk
from vlaudit.registry import ProbeRegistry
from vlaudit.reports.compliance import Framework, controls_of, frameworks
from vlaudit.zoo import specimens

FOLDERS = ("probes", "reference")
FAMILIES = {
    Family.MATCHING: "Matchers (image and text compared)",
    Family.GENERATION: "Generators (image and text in, text out)",
    Family.TEXT_TO_IMAGE: "Text-to-image pipelines",
}

_SPECIMENS = (
    "Bundled targets on which `vlaudit selftest` measures this probe. What is expected is fixed by the recipe that planted the "
    "flaw, never by what the probe says; *any* means that the recipe does not fix it."
)
_BUILT_IN = (
    "What belongs to a statistic as a fitted tail or a prior does. No policy sets these; where too few values are seen, nothing is held of them. "
    "The name is that of the constant in the code."
)
_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
_SOURCE = re.compile(r"\b(arXiv|doi):(\S+)")


def write_pages(source: Path) -> None:
    """Write all generated pages under the source folder, and remove those of probes that are gone."""
    probes = list(ProbeRegistry.load().classes.values())
    pages = {f"probes/{probe.info.id}.md": probe_page(probe, known={p.info.id for p in probes}) for probe in probes}
    pages["probes/index.md"] = probes_index(probes)
    pages["thresholds.md"] = thresholds_page(probes)
    pages["reference/prompts.md"] = plugins_page("Prompting methods", "prompts")
    pages["reference/backends.md"] = plugins_page("Backends", "backends")
    pages["reference/reporters.md"] = plugins_page("Report formats", "reporters")
    pages["reference/specimens.md"] = specimens_page()
    pages["reference/compliance.md"] = compliance_page(probes)
    for folder in FOLDERS:
        (source / folder).mkdir(exist_ok=True)
        for old in (source / folder).glob("*.md"):
            if f"{folder}/{old.name}" not in pages:
                old.unlink()
    for name, text in pages.items():
        page = source / name
        if not page.is_file() or page.read_text(encoding="utf-8") != text:  # untouched pages are not rendered again
            page.write_text(text, encoding="utf-8")


def probe_page(probe: type[Probe], known: set[str]) -> str:
    """The page of a probe, in Markdown."""
    info = probe.info
    question, *rest = sections(probe.documentation())
    said = {"code": f"`{info.code}`"} | {name: markdown(value) for name, value in facts(info).items()}
    lines = [f"# {info.title}", "", markdown(question.text, known), ""]
    lines += table(("id", f"`{info.id}`"), said.items())
    lines += ["", "```bash", f"vlaudit scan TARGET --probe {info.id}", "```", ""]
    for section in rest or [Section("Method", "This probe's docstring has no sections.")]:
        lines += [f"## {section.title}", "", markdown(section.text, known), ""]
    if not any(section.title == "References" for section in rest) and info.references:
        lines += ["## References", "", markdown(", ".join(info.references)), ""]
    if info.limits:
        lines += ["## What a held verdict does not prove", "", markdown(info.limits), ""]
    if rows := thresholds(info):
        lines += ["## Thresholds", "", "Set them in the policy under `[thresholds]`.", ""]
        lines += [*_threshold_rows(rows), ""]
    if params := parameters(probe):
        lines += ["## Parameters", "", f"Set them in `vlaudit.toml` under `[probes.{info.id}]`.", ""]
        rows = ((f"`{p.name}`", f"`{p.kind}`", f"`{p.default}`", markdown(p.description)) for p in params)
        lines += [*table(("name", "type", "default", "meaning"), rows), ""]
    if verdicts := expected(info.id):
        planted = {specimen.name: specimen.planted for specimen in specimens()}
        lines += ["## Specimens", "", _SPECIMENS, ""]
        rows = ((f"`zoo:{name}`", markdown(planted[name] or "nothing"), said) for name, said in verdicts.items())
        lines += [*table(("specimen", "planted", "expected"), rows), ""]
    if controls := controls_of(info):
        lines += ["## Frameworks", "", "A finding of this probe is [evidence](../reference/compliance.md) for:", ""]
        lines += [*table(("framework", "control", "title"), (_control(c) for c in controls)), ""]
    return "\n".join(lines)


def probes_index(probes: list[type[Probe]]) -> str:
    """All probes by family and risk."""
    lines = ["# Probes", "", "Each probe tests one threat. `vlaudit explain CODE` prints the same pages.", ""]
    for family, title in FAMILIES.items():
        lines += [f"## {title}", ""]
        rows = [
            (risk.value, f"[{probe.info.title}]({probe.info.id}.md)", f"`{probe.info.id}`", f"`{probe.info.code}`")
            for risk in Risk
            for probe in probes
            if family in probe.info.families and probe.info.risk is risk
        ]
        lines += [*table(("risk", "probe", "id", "code"), rows), ""]
    ids = "\n".join(probe.info.id for probe in probes)
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", ids, "```", ""])


def thresholds_page(probes: list[type[Probe]]) -> str:
    """Every number that decides a verdict, by probe."""
    every = Policy()
    lines = [
        "# Thresholds", "",
        "Every number that decides a verdict, with its source. All that a user may want to set are in the policy: under `[policy.thresholds]` in",
        "`vlaudit.toml`, or under `[thresholds]` in the file of `vlaudit judge --policy`, by the key in the first column (in quotes).",
        "This page is made from the code by `python docs/_generate.py`.", "",
        "## For all probes", "",
    ]  # fmt: skip
    lines += _threshold_rows([
        ("level", f"{every.level:g}", "confidence level of the intervals: the whole interval must lie on one side of the threshold",
         "the usual convention"),
        ("alpha", f"{every.alpha:g}", "level of the tests that a vulnerable verdict needs beside its interval", "the usual convention"),
        ("unread", f"{every.unread:g}", "share of all pictures of the data, or of those of a label, that may be unreadable, and of all that may be without row and label, where a "
         "finding on them is held",
         "our choice, because what is not seen may be what is wrong, and one share in a hundred moves a rate by at most that much"),
        ("severity", f"{NEAR:g}", "times the threshold's distance from the null: where the interval's near end is no farther from the "
         "null, the severity is one step lower; it cannot be set", "our choice, because a finding just beyond a threshold is less certain to matter"),
    ])  # fmt: skip
    lines += ["", "The null is where a measure lies without the flaw:", ""]
    nulls = ((m.value, f"{m.null:g}", "ratios of the two" if m is Measure.RATIO else "differences") for m in Measure)
    lines += table(("measure", "null", "distances are"), nulls)
    lines += ["", "For a share, the null is the control's rate where a probe measures one.", ""]
    lines += ["## Built into the statistics", "", _BUILT_IN, ""]
    rows = ((f"`{name}`", value, markdown(meaning), markdown(source)) for name, value, meaning, source in built_in())
    lines += [*table(("number", "value", "meaning", "source"), rows), ""]
    for probe in sorted(probes, key=lambda probe: probe.info.id):
        info = probe.info
        lines += [f"## {info.id}", "", f"{info.title}; the metric is a measure of the kind *{info.measure.value}*.", ""]
        lines += [*_threshold_rows(thresholds(info)), ""]
    return "\n".join(lines)


def built_in() -> Iterator[tuple[str, str, str, str]]:
    """Every number built into a statistic, of ours and of the probes: its name, its value, what it means and where it comes from."""
    for package in (vlaudit.statistics, vlaudit.attacks):
        for info in walk_packages(package.__path__, f"{package.__name__}."):
            module = import_module(info.name)
            for name, said in getattr(module, "BUILT_IN", {}).items():
                yield f"{info.name.removeprefix('vlaudit.')}.{name}", _value(getattr(module, name)), said.meaning, said.source


def _value(value: float | Sequence[float] | Mapping[str, float]) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one:g}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, (int, float)) else ", ".join(f"{one:g}" for one in value)


def _threshold_rows(rows: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    said = ((f"`{key}`", value, markdown(meaning), markdown(source)) for key, value, meaning, source in rows)
    return table(("key", "value", "meaning", "source"), said)


def plugins_page(title: str, group: str) -> str:
    """One section for each plugin of a group: its module's docstring, and its class's."""
    lines = [f"# {title}", ""]
    for name, plugin in plugins(group).items():
        found = plugin.load()
        lines += [f"## {name}", ""]
        for docstring in (inspect.getdoc(inspect.getmodule(found)), inspect.getdoc(found)):
            lines += [markdown(docstring), ""] if docstring and " " in docstring else []
    return "\n".join(lines)


def specimens_page() -> str:
    """All bundled specimens by family."""
    lines = [
        "# Specimens", "",
        "Small, really trained targets with a known flaw, or known to be clean. `vlaudit scan zoo:NAME` audits one,",
        "`vlaudit selftest` measures every probe on those whose expected verdict is fixed.", "",
    ]  # fmt: skip
    for family, title in FAMILIES.items():
        rows = (
            (f"`zoo:{s.name}`", markdown(s.planted or "nothing: it is clean"), _list(s.expects, s.expects.get))
            for s in specimens()
            if s.family is family
        )
        lines += [f"## {title}", "", *table(("target", "planted", "expected verdicts"), rows), ""]
    return "\n".join(lines)


def compliance_page(probes: list[type[Probe]]) -> str:
    """Which probes are evidence for which control."""
    lines = [
        "# Frameworks and probes", "",
        "Findings are evidence for the controls below (`vlaudit report AUDIT_DIR --format compliance`). The choice is this",
        "project's judgement, no official crosswalk. An audit supports an assessment of conformity; it does not establish it.",
        "",
    ]  # fmt: skip
    for framework in frameworks():
        bearing = {
            control: [p.info.id for p in probes if f"{framework.id}:{control}" in controls_of(p.info)]
            for control in framework.controls
        }  # fmt: skip
        rows = (
            (f"`{control}`", markdown(title), _list(bearing[control]) or "none")
            for control, title in framework.controls.items()
        )
        lines += [
            f"## {framework.title}",
            "",
            f"Edition: [{framework.edition}]({framework.source}), read {framework.retrieved}.",
        ]
        lines += [
            "" if framework.verified else "Its identifiers were not checked in the source.",
            markdown(framework.note),
            "",
        ]
        lines += [*table(("control", "title", "probes"), rows), ""]
    return "\n".join(lines)


def markdown(text: str, known: Iterable[str] = ()) -> str:
    """A docstring as Markdown: code and emphasis stay, anything that could be markup else is text, sources and the names of
    known probes become links."""
    known = set(known)
    return "\n\n".join(
        f"```text\n{inspect.cleandoc(paragraph)}\n```" if paragraph.startswith("    ") else _inline(paragraph, known)
        for paragraph in re.split(r"\n\s*\n", text)
    )


def _inline(text: str, known: set[str]) -> str:
    parts = _CODE.split(text)
    for index, part in enumerate(parts):
        name = part.strip("`")
        if index % 2 == 0:
            parts[index] = _SOURCE.sub(_link, re.sub(r"(?<!\S)([#>+-])(?=\s)|([\[\]{}])", r"\\\1\2", part))
            parts[index] = re.sub(r"<(?!https)", "&lt;", parts[index])
        elif name in known:
            parts[index] = f"[`{name}`]({name}.md)"
    return "".join(parts)


def _link(match: re.Match[str]) -> str:
    """A source's name as a link; a bracket or stop that follows it is not part of it."""
    kind, name = match[1], match[2].rstrip(".,;:")
    while name.endswith(")") and name.count("(") < name.count(")"):
        name = name[:-1].rstrip(".,;:")
    address = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}[kind] + quote(name, safe="/:;.")
    return f"[{kind}:{name}]({address})" + match[2][len(name) :]


def _control(control: str) -> tuple[str, str, str]:
    """The row of ``framework:identifier``; one that no framework's edition has keeps its bare name."""
    framework_id, _, identifier = control.partition(":")
    found: list[Framework] = [framework for framework in frameworks() if framework.id == framework_id]
    title = found[0].controls.get(identifier, "") if found else ""
    return (f"{found[0].title} {found[0].edition}" if found else framework_id), f"`{identifier}`", markdown(title)


def _list(ids: Iterable[str], verdict: Callable[[str], str | None] = lambda _: None) -> str:
    """Links to probes, each with its verdict if there is one."""
    return ", ".join(f"[{name}](../probes/{name}.md)" + (f" {verdict(name)}" if verdict(name) else "") for name in ids)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    for cells in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    write_pages(Path(__file__).parent)
