"""The model card block: read back by huggingface_hub, merged into a README that keeps what is its own, and never a false pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.reports.conftest import poisoned
from vlaudit.errors import UsageError
from vlaudit.records import Finding, ModelInfo, Report, Risk, Verdict
from vlaudit.reports.model_card import BEGIN, END, MAX_FINDINGS, ModelCardReporter, merge

README = """---
license: mit
language:
- en
model-index:
- name: my model
  results:
  - task:
      type: image-classification
    dataset:
      name: Beans
      type: beans
    metrics:
    - type: accuracy
      value: 0.9
---

# My model

It names emoji.
"""


def block(report: Report) -> str:
    text = ModelCardReporter().render(report, Path("nowhere"))
    text.encode()
    return text


def results(text: str) -> list[EvalResult]:
    return ModelCard(text).data.eval_results or []


def measured(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.metric and f.verdict is not Verdict.NOT_ASSESSED]


def test_results_are_read_back_with_values_and_intervals(report: Report) -> None:
    found = {(r.metric_type, r.metric_config): r for r in results(block(report))}
    prompts = {target.id: target.prompt.id for target in report.targets}
    assert len(found) == len(measured(report)) == 7
    for finding in measured(report):
        metric, result = finding.metric, found[finding.probe, prompts[finding.target]]
        assert metric and result.metric_value == metric.value and result.metric_name.startswith(metric.name)
        args = result.metric_args
        assert args["interval"] == list(metric.ci) and (args["n"], args["level"]) == (metric.n, metric.level)
        assert args["threshold"] == finding.threshold and args["verdict"] == finding.verdict.value
        assert result.task_type == "zero-shot-image-classification" and result.dataset_name == "bundled emoji"
        assert result.dataset_revision == report.targets[0].data.sha256


def test_the_hubs_writer_gives_the_same_results_again(report: Report) -> None:
    card = ModelCard(block(report))
    assert results(str(card)) == results(block(report)) != []
    (entry,) = yaml.safe_load(block(report).split("---\n")[1])["model-index"]
    assert entry["name"] == "flagship"


def test_the_name_shows_verdict_and_direction_because_a_page_shows_nothing_else(suppressed_report: Report) -> None:
    names = {r.metric_type: r.metric_name for r in results(block(suppressed_report))}
    assert "(vulnerable, suppressed; lower is better)" in names["rank-skew"]
    assert "(inconclusive; lower is better)" in names["prompt-mia"]
    assert "prompt coop-shared" in names["rank-skew"]


def test_what_was_not_assessed_is_in_the_section_alone(report: Report) -> None:
    changed = [f.model_copy(update={"verdict": Verdict.NOT_ASSESSED}) for f in report.findings]
    text = block(report.model_copy(update={"findings": changed}))
    assert text.startswith(BEGIN) and text.count("– not assessed") == len(report.findings)
    assert "✓" not in text and "81" not in text, "neither a pass nor a figure"


def test_the_section_says_what_a_reader_must_not_miss(suppressed_report: Report) -> None:
    text = block(suppressed_report)
    assert "3 vulnerable, 1 inconclusive, 3 held, 2 not assessed" in text
    (row,) = [line for line in text.splitlines() if line.startswith("|") and "rank skew" in line]
    assert "✗ vulnerable (medium), suppressed until 2027" in row
    assert "ada@" not in text, "a public card names nobody"
    audit = suppressed_report.audit.model_copy(update={"errors": ["killed"]})
    assert "did not finish" in block(suppressed_report.model_copy(update={"audit": audit}))


def test_merging_keeps_what_is_the_cards_own(report: Report) -> None:
    merged = merge(README, block(report))
    card = ModelCard(merged)
    assert (card.data.license, card.data.language, card.data.model_name) == ("mit", ["en"], "my model")
    assert next(r.metric_value for r in card.data.eval_results) == 0.9
    assert len(card.data.eval_results) == 1 + len(measured(report))
    assert "It names emoji." in card.text and merged.index("It names emoji.") < merged.index(BEGIN)


def test_merging_again_replaces_the_earlier_audit(report: Report) -> None:
    later = report.model_copy(
        update={"findings": report.findings[:1], "audit": report.audit.model_copy(update={"id": "x"})}
    )
    once = merge(README, block(report)) + "\nThe end.\n"
    twice = merge(once, block(later))
    assert merge(twice, block(later)) == twice
    assert len(results(twice)) == 2 and twice.count(BEGIN) == twice.count(END) == 1
    assert twice.rstrip().endswith("The end.") and "audit x" in twice


def test_merging_into_a_card_without_metadata(report: Report) -> None:
    merged = merge("# My model\n", block(report))
    assert len(results(merged)) == len(measured(report)) and "# My model" in merged
    nothing = block(report.model_copy(update={"findings": []}))
    assert merge("# My model\n", nothing).startswith("# My model\n")
    assert results(merge(merge("# My model\n", block(report)), nothing)) == []


def test_a_card_is_of_one_model(report: Report) -> None:
    other = report.targets[0].model_copy(update={"model": ModelInfo(spec="hf:org/other")})
    text = block(report.model_copy(update={"targets": [other, report.targets[1]]}))
    assert [entry["name"] for entry in yaml.safe_load(text.split("---\n")[1])["model-index"]] == [
        "flagship",
        "org/other",
    ]
    with pytest.raises(UsageError, match="several models"):
        merge(README, text)


def test_hostile_text_stays_text(hostile_report: Report) -> None:
    assert_plain(block(hostile_report))
    merged = merge(README, block(hostile_report))
    assert len(results(merged)) == 1 + len(measured(hostile_report)) and merged.count(END) == 1


def assert_plain(text: str) -> None:
    """Metadata and a section that renders to a heading, paragraphs, lists and a table."""
    card = ModelCard(text)
    assert not any(character in text for character in "\x1b\x00\x9b\u202e\ud800")
    assert card.data.to_dict().keys() <= {"model-index"}
    html = MarkdownIt("commonmark").enable("table").render(card.text)
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", html)}
    assert tags <= {"h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "strong"}


STEERING = ["\n---\n", f" {END}", "x: !!python/none", "&a *a", "1e5", "\n# h\n- x: |"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(st.characters(), max_size=40), st.sampled_from(STEERING)))
def test_any_text_gives_a_readable_card(report: Report, text: str) -> None:
    vulnerable = [f for f in report.findings if f.probe == "rank-skew"]
    said = block(poisoned(report.model_copy(update={"findings": vulnerable}), text))
    assert_plain(said)
    merged = merge(merge(README, said), said)
    assert ModelCard(merged).text.count(END) == 1 and len(results(merged)) == 2


def test_a_very_large_audit_stays_readable(report: Report) -> None:
    long = [f.model_copy(update={"reason": "very bad " * 5_000, "limits": "x" * 9_000}) for f in report.findings]
    many = [f.model_copy(update={"id": f"{f.id}/{i}", "title": f"{f.title} {i}"}) for i in range(50) for f in long]
    text = block(report.model_copy(update={"findings": many}))
    assert len(text.encode()) < 500_000 and f"{len(many) - MAX_FINDINGS} more" in text
    assert {r.metric_args["verdict"] for r in results(text)} >= {"vulnerable"}


def test_paths_of_this_machine_are_not_published(report: Report) -> None:
    targets = [t.model_copy(update={"model": ModelInfo(spec="hf:/home/ada/secret/clip")}) for t in report.targets]
    data = [t.model_copy(update={"data": t.data.model_copy(update={"source": "/home/ada/pictures"})}) for t in targets]
    text = block(report.model_copy(update={"targets": data}))
    assert "/home" not in text and "ada" not in text and "pictures" in text
    assert {f.risk for f in report.findings} == set(Risk)
