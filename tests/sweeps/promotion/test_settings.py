"""What a space says of promotion is read by kind; what is wrong with it is one sentence with its place."""

from pathlib import Path

import pytest
import yaml

from sweeps.space import (
    Bound,
    BudgetRule,
    ChampionGate,
    GroupGate,
    SpaceError,
    TeacherGate,
    parse_space,
)
from sweeps.space.promotion import former_alias

ROOT = Path(__file__).parents[3]
ACCURACY = "benchmark/verification_accuracy"
OBJECTIVES = """
objectives:
  - {metric: validation/verification_accuracy, direction: maximize}
"""
SECOND = "  - {metric: efficiency/parameters, direction: minimize}\n"
REST = """
base: {method: {name: synthdistill}}
parameters:
  optimizer.lr: {type: float, low: 1e-4, high: 1e-2, log: true}
search: {sampler: random, num_trials: 4}
scheduler: {name: none}
promotion:
  model: face-student
"""
LIMITS = (
    "at_least, at_most, share_of_teacher_at_least, share_of_teacher_at_most, not_worse_than_champion_by, "
    "better_than_champion_by, no_group_below"
)


def read(promotion: str, *, objectives: str = OBJECTIVES):
    parsed = parse_space(f"name: study\n{objectives}{REST}{promotion}", file="study.yaml").promotion
    assert parsed is not None
    return parsed


def problems(promotion: str, *, objectives: str = OBJECTIVES) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        read(promotion, objectives=objectives)
    return [problem.partition(": ")[2] for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (f"{{metric: {ACCURACY}, at_least: 0.9}}", Bound(metric=ACCURACY, at_least=0.9)),
        ("{metric: export/onnx_bytes, at_most: 1e6}", Bound(metric="export/onnx_bytes", at_most=1e6)),
        (
            f"{{metric: {ACCURACY}, share_of_teacher_at_least: 0.95}}",
            TeacherGate(metric=ACCURACY, share_of_teacher_at_least=0.95),
        ),
        (
            f"{{metric: {ACCURACY}, not_worse_than_champion_by: 0.01, confidence: 0.9}}",
            ChampionGate(metric=ACCURACY, not_worse_than_champion_by=0.01, confidence=0.9),
        ),
        (
            "{metric: benchmark/tar_at_far_1e-2, better_than_champion_by: 0}",
            ChampionGate(metric="benchmark/tar_at_far_1e-2", better_than_champion_by=0),
        ),
        ("{no_group_below: 0.85}", GroupGate(no_group_below=0.85)),
    ],
)
def test_the_limit_of_a_gate_says_what_it_is(gate: str, expected: object) -> None:
    assert read(f"  gates: [{gate}]\n").gates == (expected,)


def test_a_promotion_is_written_as_it_was_read() -> None:
    gates = f"  gates: [{{no_group_below: 0.85}}, {{metric: {ACCURACY}, better_than_champion_by: 0.002}}]\n"
    text = f"name: study\n{OBJECTIVES}{SECOND}{REST}{gates}  choose: knee\n"
    space = parse_space(text, file="study.yaml")
    assert parse_space(space.to_yaml(), file="again.yaml").promotion == space.promotion


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("{metric: benchmark/eer}", f"must have one limit of {LIMITS}, got {{'metric': 'benchmark/eer'}}"),
        ("{metric: benchmark/eer, at_mots: 1}", f"must have one limit of {LIMITS}, got "),
        ("{metric: benchmark/eer, at_most: 1, at_least: 0}", f"must have one limit of {LIMITS}, got "),
        ("hello", f"must have one limit of {LIMITS}, got 'hello'"),
    ],
)
def test_a_gate_needs_one_limit(gate: str, said: str) -> None:
    (problem,) = problems(f"  gates: [{gate}]\n")
    assert problem.startswith(f"promotion.gates[0] {said}")


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("{at_least: 0.9}", "metric is missing"),
        ("{metric: benchmark/eer, at_most: low}", "at_most must be a number, got 'low'"),
        (
            f"{{metric: {ACCURACY}, better_than_champion_by: 0, confidence: 95}}",
            "confidence must be less than 1, got 95",
        ),
        (
            "{metric: benchmark/eer, no_group_below: 0.8}",
            "metric must be one of benchmark/verification_accuracy, benchmark/shared_threshold_accuracy, "
            "got 'benchmark/eer'",
        ),
        (
            "{metric: export/onnx_bites, at_most: 1}",
            "metric must be a metric that is reported, got 'export/onnx_bites'; did you mean "
            "export/onnx_bytes?",
        ),
        (
            "{metric: benchmark/verification_acuracy, share_of_teacher_at_least: 1}",
            "metric must be a metric of the benchmark, got 'benchmark/verification_acuracy'; did you mean "
            "benchmark/verification_accuracy?",
        ),
        (
            "{metric: benchmark/verification_accuracy_std, better_than_champion_by: 0}",
            "metric must be an accuracy or a TAR of the benchmark, got "
            "'benchmark/verification_accuracy_std'; did you mean benchmark/verification_accuracy?",
        ),
    ],
)
def test_a_mistake_in_a_gate_is_one_sentence(gate: str, said: str) -> None:
    assert problems(f"  gates: [{gate}]\n") == [f"promotion.gates[0].{said}"]


def test_a_key_of_another_kind_of_gate_is_refused() -> None:
    (problem,) = problems("  gates: [{no_group_below: 0.8, confidence: 0.9}]\n")
    assert problem.startswith("promotion.gates[0].confidence is not a known key")


@pytest.mark.parametrize(
    ("choose", "said"),
    [
        ("elbow", " must be knee or {best: METRIC, within: [LIMIT, ...]}, got 'elbow'"),
        (
            "{best: accuracy, within: [{metric: efficiency/parameters, at_most: 1}]}",
            ".best must be an objective, got 'accuracy'; allowed: validation/verification_accuracy, "
            "efficiency/parameters",
        ),
        (
            "{best: efficiency/parameters, within: [{metric: efficiency/parametres, at_most: 1}]}",
            ".within[0].metric must be a metric that is reported, got 'efficiency/parametres'; did you mean "
            "efficiency/parameters?",
        ),
        ("{best: efficiency/parameters, within: []}", ".within must not be empty"),
    ],
)
def test_a_mistake_in_a_rule_is_one_sentence(choose: str, said: str) -> None:
    found = problems(f"  choose: {choose}\n", objectives=OBJECTIVES + SECOND)
    assert found == [f"promotion.choose{said}"]


def test_a_rule_is_read() -> None:
    rule = "{best: efficiency/parameters, within: [{metric: efficiency/macs, at_most: 1e6}]}"
    chosen = read(f"  choose: {rule}\n", objectives=OBJECTIVES + SECOND).choose
    limit = Bound(metric="efficiency/macs", at_most=1e6)
    assert chosen == BudgetRule(best="efficiency/parameters", within=(limit,))
    assert str(chosen) == "best efficiency/parameters within efficiency/macs at most 1,000,000"


def test_several_objectives_are_promoted_automatically_by_a_rule_only() -> None:
    (problem,) = problems("  automatic: true\n", objectives=OBJECTIVES + SECOND)
    assert problem.startswith("promotion.choose is missing: with several objectives it says which trial")
    assert read("  automatic: true\n  choose: knee\n", objectives=OBJECTIVES + SECOND).choose == "knee"
    assert read("  automatic: true\n").choose is None


def test_one_objective_has_no_knee() -> None:
    assert problems("  choose: knee\n") == [
        "promotion.choose must not be knee where there is one objective only"
    ]


@pytest.mark.parametrize("alias", ["previous", "previous-staging"])
def test_the_aliases_of_former_versions_are_kept_for_them(alias: str) -> None:
    (problem,) = problems(f"  alias: {alias}\n")
    assert "must not begin with previous, which keeps former versions" in problem


def test_each_alias_has_one_of_former_versions() -> None:
    assert former_alias("champion") == "previous"
    assert former_alias("staging") == "previous-staging"


def test_the_gates_of_the_documentation_are_gates() -> None:
    text = (ROOT / "docs" / "promotion.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    assert len(blocks) >= 2
    for block in blocks:
        told = yaml.safe_load(block)["promotion"]
        objectives = OBJECTIVES + (SECOND if "choose" in told else "")
        kept = read(
            "\n".join(f"  {line}" for line in yaml.safe_dump(told).splitlines() if "model:" not in line)
            + "\n",
            objectives=objectives,
        )
        assert len(kept.gates) == len(told.get("gates", []))
