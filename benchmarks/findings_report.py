"""How the findings are told: the page and its tables. Verdicts are computed, none is written down.

R: the benchmark as it is and then its resamples
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from benchmarks.findings_plots import DATA, Resolutions, plot_arms, plot_fair_kd, plot_resolutions
from benchmarks.findings_statistics import (
    RESAMPLES,
    TEACHER,
    Finding,
    MeasuredArm,
    Outcome,
    estimate,
    measure,
)
from distill.evaluation import Estimate, Interval, noise_floor
from distill.faces import VerificationPairs

Verdict = Literal["reproduced", "contradicted", "not resolved"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A claim that is as true as differences lie on one side of 0.

    Attributes:
        claim: A sentence without its full stop.
        differences: By what is subtracted from what, fractions of the pairs.
        paper_side: Sign of every difference if the paper is right.
    """

    claim: str
    differences: Mapping[str, Estimate]
    paper_side: Literal[1, -1] = 1

    @property
    def verdict(self) -> Verdict:
        """Reproduced if every interval is on the paper's side of 0, contradicted if one is on the other."""
        bounds = [
            sorted(self.paper_side * bound for bound in (difference.interval.low, difference.interval.high))
            for difference in self.differences.values()
        ]
        if all(low > 0 for low, _ in bounds):
            return "reproduced"
        return "contradicted" if any(high < 0 for _, high in bounds) else "not resolved"

    @property
    def sentence(self) -> str:
        told = "; ".join(
            f"{name} {_points(difference)} points" for name, difference in self.differences.items()
        )
        return f"- **{self.verdict.capitalize()}**: {self.claim}. {told}."


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the page says on one paper.

    Attributes:
        key: Names its plot, and what is added to it.
        title: Its heading.
        body: Markdown: the claim, tables and the plot.
        checks: The claims that were judged.
        appendix: Markdown that follows the verdicts.
    """

    key: str
    title: str
    body: list[str]
    checks: list[Check]
    appendix: list[str] = field(default_factory=list)


def write(
    out: Path,
    claims: Sequence[Finding],
    outcomes: Mapping[tuple[str, str], Sequence[Outcome]],
    *,
    pairs: Mapping[str, VerificationPairs],
    teachers: Mapping[str, Outcome],
    efficiency: Mapping[str, float],
    scale: Mapping[str, int],
    command: str,
    quick: bool,
    explanations: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
) -> None:
    """Writes `findings.md` and `findings/<key>.png` into a folder; the same for the same arguments.

    Args:
        claims: `synthdistill`, `sface`, `fair_kd`, and `bridge_<px>` for each resolution.
        outcomes: The students of each arm, by the claim's key and the arm's name.
        pairs: The benchmark of each claim, by its key.
        teachers: The teacher on it.
        efficiency: Size and speed of the bridge student for the smallest faces.
        scale: How much was trained, by what it is called on the page.
        command: What made the page.
        quick: Whether the page must say that it shows nothing.
        explanations: Markdown that is added to the section `synthdistill`, `sface`, `fair_kd` or `bridge`.
        resamples: For the intervals.
    """
    plots = out / "findings"
    plots.mkdir(parents=True, exist_ok=True)
    measured = {
        claim.key: measure(
            {arm.name: outcomes[claim.key, arm.name] for arm in claim.arms}
            | {TEACHER: [teachers[claim.key]]},
            pairs[claim.key],
            resamples=resamples,
        )
        for claim in claims
    }
    by_key = {claim.key: claim for claim in claims}
    resolutions = {
        claim.faces.size_px: (claim, measured[claim.key])
        for claim in claims
        if claim.key.startswith("bridge_")
    }
    sections = [
        _synthdistill(by_key["synthdistill"], measured["synthdistill"], plots),
        _sface(by_key["sface"], measured["sface"], plots),
        _fair_kd(by_key["fair_kd"], measured["fair_kd"], pairs["fair_kd"], plots),
        _bridge(resolutions, efficiency, plots),
    ]
    opening = _opening(
        sections, next(iter(pairs.values())), scale=scale, command=command, quick=quick, resamples=resamples
    )
    told = [_told(section, (explanations or {}).get(section.key)) for section in sections]
    (out / "findings.md").write_text("\n\n".join([opening, *told]) + "\n", encoding="utf-8")


# The page


def _opening(
    sections: list[Section],
    pairs: VerificationPairs,
    *,
    scale: Mapping[str, int],
    command: str,
    quick: bool,
    resamples: int,
) -> str:
    smoke = (
        "> **SMOKE RUN.** These students were trained a tenth as long, one seed an arm. The page shows that\n"
        "> everything runs. **No number and no verdict on it means anything.**"
    )
    num_people, num_checks = len(pairs.people().unique()), sum(len(section.checks) for section in sections)
    size = [(name, f"{value:,}") for name, value in scale.items()]
    size += [("identities of the benchmark", f"{num_people:,}"), ("pairs", f"{len(pairs.left_P):,}")]
    summary = [
        (f"[{section.title}](#{_anchor(section.title)})", check.claim, _summary(check), check.verdict)
        for section in sections
        for check in section.checks
    ]
    return "\n\n".join(
        [
            "# Findings",
            *([smoke] if quick else []),
            "Four papers' claims, each tested with students that this repository trains. Faces are drawn by "
            "the embedded world, and its teacher and the students are small: the findings demonstrate the "
            "system. They are no claim about real faces, neither for a paper nor against it.",
            f"One command makes this page:\n\n```\n{command}\n```",
            "## What was trained",
            _table(("", "number"), size),
            "Each student is selected on validation identities and measured once on the benchmark, whose "
            "people nothing was trained or selected on. `seeds` is students of each arm. Accuracy is that of "
            "ten-fold verification; a coin has 50 %. Students of one table take equally many optimiser steps "
            "on equally many faces; step 1 of bridge distillation comes on top.",
            "## How intervals are made",
            f"Two things could have gone otherwise: who is in the benchmark, and how training went. Each of "
            f"{resamples:,} resamples draws as many people as there are, with replacement and within their "
            "demographic group, and for every arm one student fewer than it has, with replacement: so few "
            "make the variance of a mean over seeds right. The people are the same for all arms and the "
            "students are drawn for each arm by itself. A statistic is a mean over the drawn students; an "
            "interval holds 95 % of the resamples. Differences are taken within each resample, so their "
            "intervals are often shorter than the intervals of two accuracies suggest. Decisions and "
            "thresholds stay as they are.",
            "Intervals err on the wide side for people, as what is peculiar to one pair of two people counts "
            "up to three times, and on the narrow side for training, as few seeds tell little of its tails; "
            "with one seed they are about people only. One interval in twenty misses by chance: of "
            f"{num_checks} claims judged here, about {num_checks / 20:.0f}. Nothing is corrected for that.",
            "## Verdicts",
            "*Reproduced*: the interval of the difference is on the paper's side of 0; of every group, where "
            "the claim is about every group. *Contradicted*: it is on the other side. *Not resolved*: it "
            "holds 0. Differences are in percentage points.",
            _table(("paper", "claim", "difference (95 %)", "verdict"), summary),
        ]
    )


def _told(section: Section, explanation: str | None) -> str:
    verdicts = "\n".join(check.sentence for check in section.checks)
    explained = ["### Explanations that were tested", explanation.strip()] if explanation else []
    return "\n\n".join([f"## {section.title}", *section.body, verdicts, *explained, *section.appendix])


def _summary(check: Check) -> str:
    """The difference, or the smallest and the largest of several."""
    told = sorted(check.differences.values(), key=lambda difference: difference.value)
    if len(told) == 1:
        return _points(told[0])
    return f"from {_points(told[0])} to {_points(told[-1])}"


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(key: str, shows: str) -> str:
    return (
        f"![{shows}](findings/{key}.png)\n\n"
        f"*{shows}. Large marks are means over seeds, lines their 95 % intervals, dots single students.*"
    )


def _percent(value: float, *, sign: bool = False) -> str:
    """A fraction as percent with two decimals; never a negative zero."""
    rounded = round(100 * value, 2) + 0.0
    return f"{rounded:+.2f}" if sign else f"{rounded:.2f}"


def _range(interval: Interval, *, sign: bool = False) -> str:
    return f"{_percent(interval.low, sign=sign)} to {_percent(interval.high, sign=sign)}"


def _points(difference: Estimate) -> str:
    return f"{_percent(difference.value, sign=True)} ({_range(difference.interval, sign=True)})"


def _share(share: Estimate) -> str:
    return f"{_percent(share.value)} % ({_range(share.interval)})"


def _arms_table(measured: Mapping[str, MeasuredArm], *, reference: str) -> str:
    rows = [_arm_row(name, measured, reference=reference) for name in measured]
    return _table(("arm", *_arm_header(reference)), rows)


def _arm_header(reference: str) -> tuple[str, ...]:
    return ("accuracy, %", "95 %", "seeds, min to max", f"minus {reference}, points (95 %)")


def _arm_row(name: str, measured: Mapping[str, MeasuredArm], *, reference: str) -> tuple[str, ...]:
    arm = measured[name]
    accuracy, apart = estimate(arm.accuracy), estimate(arm.accuracy - measured[reference].accuracy)
    return (
        name,
        _percent(accuracy.value),
        _range(accuracy.interval),
        "" if name == TEACHER else _min_max(arm.student_accuracies),
        "reference" if name == reference else _points(apart),
    )


def _min_max(values: Sequence[float]) -> str:
    return f"{_percent(min(values))} to {_percent(max(values))}"


def _is_better(measured: Mapping[str, MeasuredArm], better: str, worse: str, *, where: str = "") -> Check:
    apart_R = measured[better].accuracy - measured[worse].accuracy
    return Check(
        claim=f"{where}`{better}` is more accurate than `{worse}`",
        differences={"The difference is": estimate(apart_R)},
    )


# 1. SynthDistill


def _synthdistill(claim: Finding, measured: Mapping[str, MeasuredArm], plots: Path) -> Section:
    student_R, teacher_R = measured[claim.reference].accuracy, measured[TEACHER].accuracy
    others = [arm.name for arm in claim.arms if arm.name != claim.reference]
    plot_arms(measured, plots / "synthdistill.png")
    return Section(
        key="synthdistill",
        title="SynthDistill",
        body=[
            'Otroshi Shahreza et al., "SynthDistill: Face Recognition with Knowledge Distillation from '
            'Synthetic Data", IJCB 2023, [arXiv 2308.14852](https://arxiv.org/abs/2308.14852). A light '
            "student that sees generated faces only, and no label, comes close to its teacher: 99.52 % on "
            "LFW. Varying each face as far as the student already agrees with the teacher on it helps.",
            f"`{claim.reference}` is the paper's re-sampling. `off` draws fresh faces instead. "
            "`constant_w` varies all faces equally far. `inverted_w` varies those further on which the two "
            "disagree. The last two are controls of ours: if the feedback is what helps, both fall behind.",
            _arms_table(measured, reference=claim.reference),
            _figure("synthdistill", "Benchmark accuracy by re-sampling"),
            f"The student of `{claim.reference}` has {_share(estimate(student_R / teacher_R))} of its "
            f"teacher's accuracy, and {_share(estimate((student_R - 0.5) / (teacher_R - 0.5)))} of what the "
            "teacher has above a coin's.",
        ],
        checks=[_is_better(measured, claim.reference, other) for other in others],
    )


# 2. SFace


def _sface(claim: Finding, measured: Mapping[str, MeasuredArm], plots: Path) -> Section:
    combined_R, classification_R = (measured[name].accuracy for name in ("combined", "classification"))
    reduction = estimate(1 - (1 - combined_R) / (1 - classification_R))
    images = claim.arms[0].settings["method"]["images_per_class"]
    plot_arms(measured, plots / "sface.png")
    return Section(
        key="sface",
        title="SFace",
        body=[
            'Boutros et al., "SFace: Privacy-friendly and Accurate Face Recognition using Synthetic Data", '
            "IJCB 2022, [arXiv 2206.10520](https://arxiv.org/abs/2206.10520). On labelled faces of a "
            "conditional generator, learning from a teacher as well as from labels lifts LFW from 91.87 % "
            "(classification, 60 images a class) to 99.13 % (combined): of 100 errors 89 are gone.",
            "`classification` learns from labels alone, `transfer` from the teacher's embeddings alone, "
            f"`combined` from both, here with {images} images a class.",
            _arms_table(measured, reference=claim.reference),
            _figure("sface", "Benchmark accuracy by what is learnt from"),
            f"`combined` makes {_share(reduction)} fewer errors than `classification`; in the paper 89.30 %.",
        ],
        checks=[_is_better(measured, "combined", "classification")],
    )


# 3. Fair KD

PairedStatistic = Callable[[MeasuredArm], Tensor]


def _fair_kd(
    claim: Finding, measured: Mapping[str, MeasuredArm], pairs: VerificationPairs, plots: Path
) -> Section:
    def effect(data: str, statistic: PairedStatistic) -> Tensor:
        return statistic(measured[f"{data}, with"]) - statistic(measured[f"{data}, without"])

    def gap(kd: str) -> Tensor:
        return measured[f"authentic, {kd}"].accuracy - measured[f"synthetic, {kd}"].accuracy

    floors = {name: _fair_by_chance(arm, pairs) for name, arm in measured.items()}
    narrowed = estimate(gap("without") - gap("with"))
    everywhere = [
        Check(
            claim=f"On {data} faces KD raises the accuracy of every group",
            differences={
                group: estimate(effect_R)
                for group, effect_R in zip(
                    pairs.group_names, effect(data, lambda arm: arm.group_accuracy).unbind(1), strict=True
                )
            },
        )
        for data in DATA
    ]
    evener = [
        Check(
            claim=f"On {data} faces KD lowers the STD over groups",
            differences={"With minus without is": estimate(effect(data, lambda arm: arm.group_std))},
            paper_side=-1,
        )
        for data in DATA
    ]
    gaps = [
        ("without KD", _points(estimate(gap("without")))),
        ("with KD", _points(estimate(gap("with")))),
        ("narrowed by", _points(narrowed)),
    ]
    plot_fair_kd(measured, {name: std for name, (std, _) in floors.items()}, plots / "fair_kd.png")
    return Section(
        key="fair_kd",
        title="Fair KD",
        body=[
            'Neto et al., "How Knowledge Distillation Mitigates the Synthetic Gap in Fair Face Recognition", '
            "ECCV Workshops 2024, [arXiv 2408.17399](https://arxiv.org/abs/2408.17399). Over 33 models, a "
            "teacher raises accuracy in every ethnicity, lowers bias, which is the standard deviation (STD) "
            "of the groups' accuracies, and narrows the gap between training on authentic faces and on "
            "synthetic ones.",
            "`with` a teacher and `without`, on `authentic` faces, on `synthetic` ones and on a set that is "
            "`mixed`, 70 % authentic. The paper gives each group thresholds of its own; here all groups "
            "share theirs, as in a deployed system.",
            _arms_table(measured, reference=claim.reference),
            "Accuracy of each group, and how uneven the groups are, all in percent. The last two columns "
            "are what a perfectly fair network as accurate would show by chance, on average and in one case "
            "of twenty; they take pairs for independent, which makes them low.",
            _fairness_table(measured, floors, pairs),
            _figure(
                "fair_kd",
                "Accuracy and STD over groups, with a teacher and without; in grey what a perfectly fair "
                "network as accurate has by chance",
            ),
            "What a teacher adds: with minus without, in points (95 %).",
            _effects_table(effect, floors, pairs),
            "A perfectly fair network's STD falls as well where errors get fewer, by as much as the last "
            "column says: only a fall beyond that is fairness. Resampling adds noise of its own to STD, more "
            "where there are more errors, so these intervals lie a little too low.",
            "The synthetic gap: accuracy on authentic minus on synthetic faces, in points (95 %).",
            _table(("", "gap"), gaps),
        ],
        checks=[
            *everywhere,
            *evener,
            Check(
                claim="KD narrows the gap between authentic and synthetic faces",
                differences={"It narrows by": narrowed},
            ),
        ],
    )


def _fair_by_chance(arm: MeasuredArm, pairs: VerificationPairs) -> tuple[float, float]:
    """STD over groups of a perfectly fair network as accurate as the arm: mean and 95th percentile."""
    floor = noise_floor(
        len(pairs.group_P) // len(pairs.group_names),
        arm.accuracy[0].item(),
        num_groups=len(pairs.group_names),
    )
    return floor.std, floor.std_p95


def _fairness_table(
    measured: Mapping[str, MeasuredArm], floors: Mapping[str, tuple[float, float]], pairs: VerificationPairs
) -> str:
    rows = []
    for name, arm in measured.items():
        std = estimate(arm.group_std)
        groups = [_percent(accuracy) for accuracy in arm.group_accuracy[0].tolist()]
        chance = [_percent(floor) for floor in floors[name]]
        mean = _percent(arm.group_accuracy[0].mean().item())
        rows.append((name, *groups, mean, _percent(std.value), _range(std.interval), *chance))
    return _table(
        ("arm", *pairs.group_names, "mean", "STD", "95 %", "STD by chance", "1 in 20 above"),
        rows,
    )


def _effects_table(
    effect: Callable[[str, PairedStatistic], Tensor],
    floors: Mapping[str, tuple[float, float]],
    pairs: VerificationPairs,
) -> str:
    rows = [
        (
            data,
            _points(estimate(effect(data, lambda arm: arm.group_accuracy.mean(1)))),
            *(
                _points(estimate(effect_R))
                for effect_R in effect(data, lambda arm: arm.group_accuracy).unbind(1)
            ),
            _points(estimate(effect(data, lambda arm: arm.group_std))),
            _percent(floors[f"{data}, with"][0] - floors[f"{data}, without"][0], sign=True),
        )
        for data in DATA
    ]
    return _table(("faces", "mean accuracy", *pairs.group_names, "STD", "STD by chance"), rows)


# 4. Bridge distillation

BOTH_STEPS = "steps 1 and 2"


def _bridge(resolutions: Resolutions, efficiency: Mapping[str, float], plots: Path) -> Section:
    sharp_px = max(claim.faces.sharp_px for claim, _ in resolutions.values())
    checks = []
    for size_px, (claim, measured) in resolutions.items():
        rivals = [arm.name for arm in claim.arms if arm.name != BOTH_STEPS]
        if size_px < claim.faces.sharp_px:
            rivals.append(TEACHER)
        checks += [_is_better(measured, BOTH_STEPS, rival, where=f"At {size_px} px ") for rival in rivals]
    plot_resolutions(resolutions, plots / "bridge.png")
    return Section(
        key="bridge",
        title="Bridge distillation",
        body=[
            'Ge et al., "Efficient Low-Resolution Face Recognition via Bridge Distillation", IEEE TIP 2020, '
            "[arXiv 2409.11786](https://arxiv.org/abs/2409.11786). A teacher of sharp faces is adapted to "
            "public ones (step 1), and a very light student mimics it on low-resolution copies of these "
            "(step 2); it recognises them well with 0.21 M parameters. The paper's abstract gives no "
            "accuracies; that both steps together beat each baseline is how we read it.",
            f"Faces of {sharp_px} px are reduced to the size given. The `teacher` is fed the reduced faces, "
            f"enlarged; at {sharp_px} px nothing is reduced and it is no rival. `from scratch` learns from "
            "labels alone, `step 2 alone` mimics the teacher as it is.",
            _resolutions_table(resolutions),
            _figure("bridge", "Benchmark accuracy by resolution"),
        ],
        checks=checks,
        appendix=[
            "### Size and speed",
            _efficiency_table(efficiency, size_px=min(resolutions)),
            "Speeds are medians of one thread on the machine that made this page, quartiles in brackets; "
            "the paper's threads and batch size are unknown to us. That 0.057 MB is the memory of feature "
            "maps is our reading, not the paper's word: as weights, 0.21 M parameters in 0.057 MB would have "
            "2.2 bits each, and the paper's abstract speaks of no quantisation. Ours is the sum of all "
            "outputs of convolutions and linear layers for one face.",
        ],
    )


def _resolutions_table(resolutions: Resolutions) -> str:
    rows = [
        (f"{size_px} px", *_arm_row(name, measured, reference=claim.reference))
        for size_px, (claim, measured) in resolutions.items()
        for name in measured
    ]
    reference = next(claim.reference for claim, _ in resolutions.values())
    return _table(("faces", "arm", *_arm_header(reference)), rows)


def _efficiency_table(efficiency: Mapping[str, float], *, size_px: int) -> str:
    def speed(batch_size: int) -> str:
        name = f"efficiency/faces_per_second_batch_{batch_size}"
        median, low, high = (efficiency[f"{name}{end}"] for end in ("", "_low", "_high"))
        return f"{median:,.0f} ({low:,.0f} to {high:,.0f})"

    rows = [
        ("parameters", f"{efficiency['efficiency/parameters'] / 1e6:.3f} M", "0.21 M"),
        ("multiply-adds", f"{efficiency['efficiency/macs'] / 1e6:.2f} M", ""),
        ("weights", f"{efficiency['efficiency/weight_bytes'] / 1e6:.3f} MB", ""),
        ("feature maps", f"{efficiency['efficiency/activation_bytes'] / 1e6:.3f} MB", "0.057 MB"),
        ("faces a second, one at a time", speed(1), "934 on a CPU"),
        ("faces a second, 128 at a time", speed(128), "934 on a CPU"),
    ]
    return _table(("", f"ours, {size_px} px, float32", "paper"), rows)
