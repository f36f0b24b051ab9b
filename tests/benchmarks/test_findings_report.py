"""The page of findings, from decisions that are made up: verdicts, intervals and tables without training."""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import findings_report, findings_statistics
from benchmarks.findings_report import Check
from benchmarks.findings_statistics import Finding, Outcome, measure
from benchmarks.paper_findings import Scale, findings
from distill.evaluation import Estimate, Interval
from distill.faces import VerificationPairs
from distill.faces.pairs import pair_up

PEOPLE_PER_GROUP, GROUPS = 40, ("group_a", "group_b", "group_c", "group_d")
CLAIMS = findings(Scale(epochs=1, faces_per_epoch=64, num_classes=10, seeds=2))
EFFICIENCY = {
    "efficiency/parameters": 217_344.0,
    "efficiency/macs": 9_120_000.0,
    "efficiency/weight_bytes": 875_000.0,
    "efficiency/activation_bytes": 54_000.0,
    **{
        f"efficiency/faces_per_second_batch_{size}{end}": speed
        for size, speeds in ((1, (900.0, 880.0, 915.0)), (128, (4100.0, 4000.0, 4200.0)))
        for end, speed in zip(("", "_low", "_high"), speeds, strict=True)
    },
}


@pytest.fixture(scope="module")
def pairs() -> VerificationPairs:
    identity_N = torch.arange(PEOPLE_PER_GROUP * len(GROUPS)).repeat_interleave(3)
    return pair_up(
        name="benchmark",
        images_NCHW=torch.zeros(len(identity_N), 3, 1, 1, dtype=torch.uint8),
        identity_N=identity_N,
        group_N=identity_N // PEOPLE_PER_GROUP,
        group_names=GROUPS,
        pairs_per_fold=80,
        generator=torch.Generator().manual_seed(0),
    )


def decisions(num_wrong: int, pairs: VerificationPairs, *, seed: int = 0) -> Tensor:
    """Right but for so many pairs in each group; those of a smaller number are among those of a larger."""
    is_right_P = torch.ones(len(pairs.left_P), dtype=torch.bool)
    rng = torch.Generator().manual_seed(seed)
    for group in range(len(GROUPS)):
        members = (pairs.group_P == group).nonzero()[:, 0]
        is_right_P[members[torch.randperm(len(members), generator=rng)[:num_wrong]]] = False
    return is_right_P


def students(wrong: Sequence[int], pairs: VerificationPairs) -> list[Outcome]:
    return [
        Outcome(seed=seed, metrics={}, is_right_P=decisions(num_wrong, pairs, seed=seed), folder=Path())
        for seed, num_wrong in enumerate(wrong)
    ]


def estimate(low: float, value: float, high: float) -> Estimate:
    return Estimate(value=value, interval=Interval(low=low, high=high))


def width(interval: Interval) -> float:
    return interval.high - interval.low


# Wrong pairs of each group's 200, by arm; two students of each.
WRONG = {
    "adaptive_w": (40, 44),
    "off": (80, 84),
    "constant_w": (40, 44),
    "inverted_w": (15, 15),
    "classification": (40, 40),
    "transfer": (40, 40),
    "combined": (10, 10),
    "authentic, without": (50, 50),
    "authentic, with": (20, 20),
    "synthetic, without": (90, 90),
    "synthetic, with": (24, 24),
    "mixed, without": (40, 44),
    "mixed, with": (40, 44),
    "from scratch": (60, 60),
    "step 2 alone": (20, 20),
    "steps 1 and 2": (40, 40),
}


def write(
    out: Path, pairs: VerificationPairs, arms: Mapping[str, Sequence[Outcome]], *, quick: bool = False
) -> str:
    findings_report.write(
        out,
        CLAIMS,
        {(claim.key, arm.name): arms[arm.name] for claim in CLAIMS for arm in claim.arms},
        pairs={claim.key: pairs for claim in CLAIMS},
        teachers={claim.key: students((10,), pairs)[0] for claim in CLAIMS},
        efficiency=EFFICIENCY,
        scale={"seeds": 2, "faces an epoch": 4096},
        command="python -m benchmarks.paper_findings --seeds 2",
        quick=quick,
        explanations={"sface": "More classes, tested.\n"},
        resamples=200,
    )
    return (out / "findings.md").read_text()


@pytest.fixture(scope="module")
def docs(pairs: VerificationPairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    write(out, pairs, {name: students(wrong, pairs) for name, wrong in WRONG.items()})
    return out


@pytest.fixture(scope="module")
def page(docs: Path) -> str:
    return (docs / "findings.md").read_text()


@pytest.fixture(scope="module")
def uneven_page(pairs: VerificationPairs, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a smoke run. Without a teacher one group has 80 of 200 pairs wrong, with one all have 20."""
    even = students((20,), pairs)
    is_right_P = decisions(80, pairs) | (pairs.group_P > 0)
    uneven = [Outcome(seed=0, metrics={}, is_right_P=is_right_P, folder=Path())]
    arms = {name: uneven if "without" in name else even for name in WRONG}
    return write(tmp_path_factory.mktemp("uneven"), pairs, arms, quick=True)


def cells(page: str, *first: str) -> list[list[str]]:
    """The rows of all tables that begin with these cells."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows if row[: len(first)] == list(first)]


def verdicts(page: str) -> dict[str, str]:
    summary = page.split("## Verdicts")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in summary.splitlines() if line.startswith("| [")]
    return {row[1]: row[3] for row in rows}


@pytest.mark.parametrize(
    ("differences", "paper_side", "verdict"),
    [
        ([estimate(0.01, 0.02, 0.03)], 1, "reproduced"),
        ([estimate(-0.03, -0.02, -0.01)], 1, "contradicted"),
        ([estimate(-0.01, 0.02, 0.03)], 1, "not resolved"),
        ([estimate(0.0, 0.0, 0.0)], 1, "not resolved"),
        ([estimate(-0.03, -0.02, -0.01)], -1, "reproduced"),
        ([estimate(0.01, 0.02, 0.03)], -1, "contradicted"),
        ([estimate(0.01, 0.02, 0.03), estimate(0.02, 0.03, 0.04)], 1, "reproduced"),
        ([estimate(0.01, 0.02, 0.03), estimate(-0.01, 0.01, 0.02)], 1, "not resolved"),
        ([estimate(0.01, 0.02, 0.03), estimate(-0.03, -0.02, -0.01)], 1, "contradicted"),
    ],
)
def test_the_verdict_is_where_the_intervals_lie(
    differences: list[Estimate], paper_side: int, verdict: str
) -> None:
    check = Check(
        claim="it helps",
        differences={str(number): difference for number, difference in enumerate(differences)},
        paper_side=1 if paper_side == 1 else -1,
    )
    assert check.verdict == verdict
    assert check.sentence.startswith(f"- **{verdict.capitalize()}**: it helps.")


def test_an_arm_is_as_accurate_as_its_students_are_on_average(pairs: VerificationPairs) -> None:
    arm = measure({"arm": students((20, 40, 30), pairs)}, pairs, resamples=20)["arm"]
    assert arm.accuracy[0].item() == pytest.approx(1 - 30 / 200)
    assert arm.student_accuracies == pytest.approx([1 - 20 / 200, 1 - 40 / 200, 1 - 30 / 200])
    assert arm.group_accuracy[0].tolist() == pytest.approx([1 - 30 / 200] * 4)


def test_std_over_groups_is_that_of_each_student(pairs: VerificationPairs) -> None:
    """Two students, each bad at a group of its own: the mean of their accuracies would look fairer."""
    outcomes = []
    for group in (0, 3):
        is_right_P = (pairs.group_P != group) | (torch.arange(len(pairs.group_P)) % 2 == 0)
        outcomes.append(Outcome(seed=group, metrics={}, is_right_P=is_right_P, folder=Path()))
    arm = measure({"arm": outcomes}, pairs, resamples=20)["arm"]
    assert arm.group_std[0].item() == pytest.approx(statistics.pstdev([0.5, 1.0, 1.0, 1.0]))
    assert arm.student_group_stds == pytest.approx([statistics.pstdev([0.5, 1.0, 1.0, 1.0])] * 2)


def test_intervals_widen_with_the_spread_of_the_seeds(pairs: VerificationPairs) -> None:
    arms = {
        "even": students((40, 40, 40), pairs),
        "uneven": students((10, 40, 70), pairs),
        "reference": students((60, 60, 60), pairs),
    }
    measured = measure(arms, pairs, resamples=500)
    for statistic in (
        lambda name: measured[name].accuracy,
        lambda name: measured[name].accuracy - measured["reference"].accuracy,
    ):
        even, uneven = (findings_statistics.estimate(statistic(name)) for name in ("even", "uneven"))
        assert even.value == pytest.approx(uneven.value)
        assert width(uneven.interval) > 1.5 * width(even.interval)


def test_drawn_students_have_the_variance_of_a_mean_over_seeds(pairs: VerificationPairs) -> None:
    """All students of a pair are right or wrong together, so that people do not matter."""
    shares = [0.0, 1.0, 1.0]
    outcomes = [
        Outcome(
            seed=seed,
            metrics={},
            is_right_P=torch.full((len(pairs.left_P),), bool(share)),
            folder=Path(),
        )
        for seed, share in enumerate(shares)
    ]
    drawn_R = measure({"arm": outcomes}, pairs, resamples=4000)["arm"].accuracy[1:]
    assert drawn_R.var().item() == pytest.approx(statistics.variance(shares) / len(shares), rel=0.05)


def test_the_same_decisions_differ_by_nothing_on_any_resample(pairs: VerificationPairs) -> None:
    measured = measure({"one": students((40,), pairs), "two": students((40,), pairs)}, pairs, resamples=50)
    assert torch.equal(measured["one"].accuracy, measured["two"].accuracy)
    assert width(findings_statistics.estimate(measured["one"].accuracy).interval) > 0


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("`adaptive_w` is more accurate than `off`", "reproduced"),
        ("`adaptive_w` is more accurate than `constant_w`", "not resolved"),
        ("`adaptive_w` is more accurate than `inverted_w`", "contradicted"),
        ("`combined` is more accurate than `classification`", "reproduced"),
        ("On authentic faces KD raises the accuracy of every group", "reproduced"),
        ("On mixed faces KD raises the accuracy of every group", "not resolved"),
        ("KD narrows the gap between authentic and synthetic faces", "reproduced"),
        ("At 16 px `steps 1 and 2` is more accurate than `from scratch`", "reproduced"),
        ("At 24 px `steps 1 and 2` is more accurate than `step 2 alone`", "contradicted"),
        ("At 24 px `steps 1 and 2` is more accurate than `teacher`", "contradicted"),
    ],
)
def test_verdicts_follow_the_decisions(claim: str, verdict: str, page: str) -> None:
    assert verdicts(page)[claim] == verdict


def test_sections_and_summary_agree(page: str) -> None:
    said = re.findall(r"^- \*\*(.+?)\*\*: (.+?)\. ", page, flags=re.MULTILINE)
    assert {claim: verdict.lower() for verdict, claim in said} == verdicts(page)


def test_a_teacher_that_is_fed_sharp_faces_is_no_rival(page: str) -> None:
    assert not [claim for claim in verdicts(page) if "32 px" in claim and "teacher" in claim]


def test_fairness_is_judged_by_the_spread_of_the_groups(uneven_page: str) -> None:
    found = verdicts(uneven_page)
    assert found["On mixed faces KD lowers the STD over groups"] == "reproduced"
    assert found["On mixed faces KD raises the accuracy of every group"] == "contradicted"
    _, fairness = cells(uneven_page, "mixed, without")
    std = 100 * statistics.pstdev([0.6, 1.0, 1.0, 1.0])
    assert fairness[1:7] == ["60.00", "100.00", "100.00", "100.00", "90.00", f"{std:.2f}"]


@pytest.mark.parametrize(
    ("first", "column", "begins"),
    [
        ("off", 1, "59.00"),
        ("off", 3, "58.00 to 60.00"),
        ("off", 4, "-20.00 ("),
        ("adaptive_w", 1, "79.00"),
        ("adaptive_w", 4, "reference"),
        ("constant_w", 4, "+0.00 ("),
        ("combined", 4, "+15.00 ("),
        ("authentic", 1, "+15.00 ("),
        ("mixed", 6, "+0.00 ("),
        ("without KD", 1, "+20.00 ("),
        ("with KD", 1, "+2.00 ("),
        ("narrowed by", 1, "+18.00 ("),
        ("parameters", 1, "0.217 M"),
        ("weights", 1, "0.875 MB"),
        ("feature maps", 1, "0.054 MB"),
        ("faces a second, one at a time", 1, "900 (880 to 915)"),
        ("faces a second, 128 at a time", 1, "4,100 (4,000 to 4,200)"),
        ("faces an epoch", 1, "4,096"),
        ("pairs", 1, "800"),
    ],
)
def test_tables_hold_the_numbers(first: str, column: int, begins: str, page: str) -> None:
    (row,) = cells(page, first)
    assert row[column].startswith(begins)


def test_intervals_surround_the_accuracy(page: str) -> None:
    ((_, _, interval, *_),) = cells(page, "adaptive_w")
    low, high = map(float, interval.split(" to "))
    assert 70 < low < 79 < high < 88


@pytest.mark.parametrize(
    "sentence",
    [
        r"`adaptive_w` has 83\.16 % \(.+?\) of its teacher's accuracy",
        r"and 64\.44 % \(.+?\) of what the teacher has above a coin's",
        r"`combined` makes 75\.00 % \(.+?\) fewer errors than `classification`",
    ],
)
def test_shares_are_told(sentence: str, page: str) -> None:
    assert re.search(sentence, page)


def test_every_resolution_has_four_rows(page: str) -> None:
    assert [len(cells(page, f"{size_px} px")) for size_px in (16, 24, 32)] == [4, 4, 4]


def test_the_page_is_the_same_for_the_same_outcomes(
    docs: Path, page: str, pairs: VerificationPairs, tmp_path: Path
) -> None:
    assert write(tmp_path, pairs, {name: students(wrong, pairs) for name, wrong in WRONG.items()}) == page
    for key in ("synthdistill", "sface", "fair_kd", "bridge"):
        picture = (docs / "findings" / f"{key}.png").read_bytes()
        assert picture == (tmp_path / "findings" / f"{key}.png").read_bytes()
        assert len(picture) < 60_000
        assert f"(findings/{key}.png)" in page


def test_links_of_the_summary_lead_to_headings(page: str) -> None:
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(.+?)\)", page)) <= headings


def test_a_smoke_run_says_so_first(page: str, uneven_page: str) -> None:
    assert "SMOKE RUN" in uneven_page.split("##")[0]
    assert "SMOKE RUN" not in page


def test_an_explanation_ends_up_in_its_section(page: str) -> None:
    section = page.split("\n## SFace")[1].split("\n## ")[0]
    assert section.rstrip().endswith("### Explanations that were tested\n\nMore classes, tested.")
    assert page.count("Explanations that were tested") == 1


def test_one_student_an_arm_is_enough(uneven_page: str) -> None:
    (off,) = cells(uneven_page, "off")
    assert off[1] == "90.00"
    assert off[4] == "+0.00 (+0.00 to +0.00)"


def test_every_claim_has_its_reference_among_its_arms() -> None:
    def has_reference(claim: Finding) -> bool:
        return claim.reference in [arm.name for arm in claim.arms]

    assert all(map(has_reference, CLAIMS))
