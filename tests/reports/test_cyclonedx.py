"""CycloneDX: valid for an independent reader, metrics with their intervals, and nothing undecided that reads as a pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reports.conftest import poisoned
from vlaudit.records import PromptInfo, Report, Risk, Verdict
from vlaudit.reports import cyclonedx
from vlaudit.reports._published import data_name, model_name
from vlaudit.reports.cyclonedx import CycloneDXReporter

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def bom(report: Report) -> dict[str, Any]:
    """The document, once an independent validator has no objection and every reference leads somewhere."""
    text = CycloneDXReporter().render(report, Path("nowhere"))
    text.encode()
    assert VALIDATOR.validate_str(text) is None
    document = json.loads(text)
    declared, referred = [], []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            declared.extend([value["bom-ref"]] if "bom-ref" in value else [])
            referred.extend([value["ref"]] if "ref" in value else [])
            referred.extend([*value.get("dependsOn", []), *value.get("assemblies", [])])
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(item)

    walk(document)
    assert len(declared) == len(set(declared)), "every bom-ref is unique"
    assert set(referred) <= set(declared)
    return document


def models(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in document["components"] if item["type"] == "machine-learning-model"]


def slices(document: dict[str, Any]) -> list[dict[str, str]]:
    """The measurements with their slice taken apart."""
    rows = [m for model in models(document) for m in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]]
    return [row | dict(part.split("=", 1) for part in row["slice"].split("; ")) for row in rows]


def test_one_model_under_two_prompts_is_one_component_with_slices(report: Report) -> None:
    document = bom(report)
    (model,) = models(document)
    assert model["hashes"] == [{"alg": "SHA-256", "content": report.targets[0].model.sha256}]
    assert {row["prompt"] for row in slices(document)} >= {"plain", "coop-shared"}
    assert document["metadata"]["tools"]["components"][0]["name"] == "vlaudit"
    assert document["metadata"]["timestamp"] == "2026-11-23T20:43:52+00:00"
    (data,) = model["modelCard"]["modelParameters"]["datasets"]
    (dataset,) = [item for item in document["components"] if item["bom-ref"] == data["ref"]]
    assert dataset["data"][0] == {"type": "dataset", "name": "bundled emoji"}


def test_every_assessed_metric_stands_with_its_interval(report: Report) -> None:
    found = {(row["probe"], row["target"]): row for row in slices(bom(report)) if row["arm"] == "target"}
    measured = [f for f in report.findings if f.metric and f.verdict is not Verdict.NOT_ASSESSED]
    assert len(found) == len(measured) > 5
    for finding in measured:
        row = found[finding.probe, finding.target]
        assert finding.metric and row["type"].startswith(finding.metric.name)
        assert float(row["value"]) == finding.metric.value
        interval = row["confidenceInterval"]
        assert (float(interval["lowerBound"]), float(interval["upperBound"])) == finding.metric.ci
        assert row["verdict"] == finding.verdict.value and int(row["n"]) == finding.metric.n


def test_reference_and_controls_are_slices_of_their_own(report: Report) -> None:
    rows = [row for row in slices(bom(report)) if row["probe"] == "clip-autoattack"]
    arms = {row["arm"]: float(row["value"]) for row in rows}
    assert arms == {"target": 0.414, "reference": 0.352, "control:random sign noise": 0.008}
    assert all("verdict" not in row for row in rows if row["arm"] != "target"), "a verdict is one of the target"


def test_a_learned_prompt_is_a_file_with_its_hash_that_depends_on_its_model(report: Report) -> None:
    document = bom(report)
    (model,) = models(document)
    needs = {item["ref"]: item.get("dependsOn", []) for item in document["dependencies"]}
    (learned,) = [item for item in document["components"] if item["type"] == "file"]
    assert learned["name"] == "coop-shared" and learned["hashes"][0]["content"] == report.targets[1].prompt.sha256
    assert needs[learned["bom-ref"]] == [model["bom-ref"]]
    (plain,) = [item for item in document["components"] if item["name"] == "plain"]
    assert plain["data"][0]["contents"]["attachment"]["content"] == "a photo of a {}"
    assert needs[plain["bom-ref"]] == []
    assert set(needs["audit"]) == {model["bom-ref"], learned["bom-ref"], plain["bom-ref"]}


def test_a_file_of_hard_texts_was_learned_for_no_model(report: Report) -> None:
    prompt = PromptInfo(id="asks", method="instruction", text="What is this?", sha256="c" * 64)
    document = bom(report.model_copy(update={"targets": [report.targets[0].model_copy(update={"prompt": prompt})]}))
    (file,) = [item for item in document["components"] if item["type"] == "file"]
    needs = {item["ref"]: item.get("dependsOn", []) for item in document["dependencies"]}
    assert "learned" not in file["description"] and needs[file["bom-ref"]] == []


def test_undecided_findings_are_limitations_and_no_vulnerability_or_pass(report: Report) -> None:
    document = bom(report)
    (model,) = models(document)
    card = model["modelCard"]
    said = "\n".join(card["considerations"]["technicalLimitations"])
    undecided = [f for f in report.findings if f.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED)]
    for finding in undecided:
        assert f"{finding.verdict.value}: {finding.title} ({finding.code}) on {finding.target}" in said
    verdicts = {(p["name"], p["value"].partition(":")[0]) for p in card["properties"]}
    assert ("vlaudit:finding:held", "held") in verdicts and all(name.endswith(said) for name, said in verdicts)
    unfinished = report.model_copy(
        update={"audit": report.audit.model_copy(update={"errors": ["typographic: killed"]})}
    )
    properties = {p["name"]: p["value"] for p in bom(unfinished)["metadata"]["properties"]}
    assert properties["vlaudit:audit:complete"] == "false" and "killed" in properties["vlaudit:audit:error"]


def test_a_figure_of_what_was_not_assessed_is_no_measurement(report: Report) -> None:
    changed = [f.model_copy(update={"verdict": Verdict.NOT_ASSESSED}) for f in report.findings]
    assert slices(bom(report.model_copy(update={"findings": changed}))) == []


def test_vulnerable_findings_are_entries_and_accepted_ones_say_so(suppressed_report: Report) -> None:
    document = bom(suppressed_report)
    vulnerable = [f for f in suppressed_report.findings if f.verdict is Verdict.VULNERABLE]
    by_probe = {entry["properties"][0]["value"]: entry for entry in document["vulnerabilities"]}
    assert by_probe.keys() == {f.probe for f in vulnerable}
    for finding in vulnerable:
        entry = by_probe[finding.probe]
        assert entry["ratings"][0]["severity"] == finding.severity.value
        assert len(entry["affects"]) == 2, "the model and the prompt"
        accepted = entry["analysis"].get("response") == ["will_not_fix"]
        assert accepted == (finding.risk is Risk.BIAS)
        assert ("accepted by ada" in entry["analysis"].get("detail", "")) == accepted
    (group,) = models(document)[0]["modelCard"]["considerations"]["fairnessAssessments"]
    assert group["groupAtRisk"] == "groups of gender, tone" and "accepted by ada" in group["mitigationStrategy"]
    assert "verdict=vulnerable, suppressed; " in json.dumps(document)


def test_the_same_audit_gives_the_same_bytes_and_another_judgement_another_serial(report: Report) -> None:
    once, again = (CycloneDXReporter().render(report, Path("nowhere")) for _ in range(2))
    assert once == again
    changed = [f.model_copy(update={"reason": "judged again"}) for f in report.findings]
    assert bom(report.model_copy(update={"findings": changed}))["serialNumber"] != json.loads(once)["serialNumber"]


def test_hostile_text_stays_text(hostile_report: Report) -> None:
    text = json.dumps(bom(hostile_report), ensure_ascii=False)
    assert not any(character in text for character in "\x1b\x00\x9b\u202e\ud800")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(), max_size=40))
def test_any_text_gives_a_valid_document(report: Report, text: str) -> None:
    bom(poisoned(report, text))


def test_a_name_cannot_pretend_to_be_a_slice(report: Report) -> None:
    def said(changed: Report) -> list[tuple[str, str | None]]:
        return [(row["arm"], row.get("verdict")) for row in slices(bom(changed))]

    renamed = [f.model_copy(update={"probe": "x; verdict=held; arm=target"}) for f in report.findings]
    assert said(report.model_copy(update={"findings": renamed})) == said(report)


def test_a_very_large_audit_stays_small_enough_to_upload(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cyclonedx.MAX_FINDINGS == 2_000
    monkeypatch.setattr(cyclonedx, "MAX_FINDINGS", 200)
    long = [f.model_copy(update={"reason": "very bad " * 5_000, "limits": "x" * 9_000}) for f in report.findings]
    many = [f.model_copy(update={"id": f"{f.id}/{i}"}) for i in range(40) for f in long]
    document = bom(report.model_copy(update={"findings": many}))
    assert 10 * len(json.dumps(document, indent=2)) < 20_000_000
    properties = {p["name"]: p["value"] for p in document["metadata"]["properties"]}
    assert properties["vlaudit:audit:findings-left-out"] == str(len(many) - 200)
    assert len(document["vulnerabilities"]) == 3 * 40, "the worst are kept"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("hf:org/name", "org/name"), ("hf:/home/ada/secret/clip/", "clip"), ("hf:C:\\models\\clip", "clip"),
        ("open_clip:local-dir:zoo/flagship", "flagship"), ("open_clip:ViT-B-32/laion2b", "ViT-B-32/laion2b"),
        ("openai:https://host.example/v1#gpt-x", "gpt-x"), ("zoo:flagship", "flagship"), ("", "model"),
    ],
)  # fmt: skip
def test_published_names_say_nothing_of_the_machine(spec: str, name: str) -> None:
    assert model_name(spec) == name


def test_data_are_called_by_their_folder() -> None:
    assert data_name("/home/ada/pictures/") == "pictures" and data_name("zoo:roles") == "zoo:roles"
