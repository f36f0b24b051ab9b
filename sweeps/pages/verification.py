"""How well the champion tells people apart, beside its teacher: curves, and group by group.

P: verification pairs, G: groups
"""

import dataclasses
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from distill.evaluation import (
    accuracy_interval,
    area_under_curve,
    det,
    equal_error_rate,
    roc,
    tar_at_far,
    ten_fold,
)
from distill.evaluation.verification import finest_far
from distill.faces import VerificationPairs
from sweeps.pages.content import Content, MissingError, Picture, Table
from sweeps.pages.knowledge import Knowledge, Measured
from sweeps.pages.quantities import listed
from sweeps.pages.style import BLUE, INK, VERMILION, draw, handles_of, legend, name_y, scale_log

LINES: dict[str, dict[str, Any]] = {
    "champion": {"color": VERMILION, "linewidth": 2.2},
    "teacher": {"color": INK, "linewidth": 1.6, "linestyle": (0, (5, 3))},
}
BARS: dict[str, dict[str, Any]] = {
    "champion": {"color": VERMILION},
    "teacher": {"color": "#9aa1a9", "hatch": "////", "edgecolor": "white"},
}
DEVIATES = (0.0001, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99)
"""Error rates that are written at a DET's axes."""


def curves(known: Knowledge) -> Content:
    """ROC and DET of champion and teacher, and what is read off them."""
    measured = known.measured
    is_genuine_P = measured.pairs.is_genuine_P
    if not 0 < int(is_genuine_P.sum()) < len(is_genuine_P):
        raise MissingError(f"The {measured.description} are all of one kind, which gives no ROC.")
    genuine, impostors = int(is_genuine_P.sum()), int((~is_genuine_P).sum())
    if known.is_promoted:
        standing = "No trial has seen them."
    elif known.ranks_on_benchmark:
        standing = "The trials were ranked on them: what they say of the champion is too good, and no result."
    else:
        standing = (
            "The trials were ranked on them, so the champion owes them a little. The benchmark is "
            "measured when it is promoted."
        )
    return Content(
        text=[
            f"Measured on {measured.description}, {genuine:,} of one person and {impostors:,} of two. "
            + standing
        ],
        pictures=[_roc_picture(measured), _det_picture(measured)],
        tables=[_numbers(measured)],
    )


def _roc_picture(measured: Measured) -> Picture:
    is_genuine_P = measured.pairs.is_genuine_P
    finest = 1 / int((~is_genuine_P).sum())

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for who, similarity_P in measured.networks.items():
            far_S, tar_S = roc(similarity_P, is_genuine_P)
            far = far_S.clamp(min=finest / 2).tolist()
            axes.step(far, (100 * tar_S).tolist(), where="post", label=who, **LINES[who])
        scale_log(axes, "x", finest, 1.0)
        axes.set_xlim(finest, 1.0)
        axes.set_ylim(top=101)
        axes.set_xlabel("false accept rate (FAR), a fraction")
        name_y(axes, "true accept rate (TAR), %")
        legend(figure, handles_of(axes))

    return draw(
        "roc",
        plot,
        alt=f"ROC of champion and teacher on {measured.description}.",
        caption=f"ROC on {measured.description}: the share of genuine pairs accepted where a share of "
        "impostors is. Higher and further left is better.",
    )


def _det_picture(measured: Measured) -> Picture:
    is_genuine_P = measured.pairs.is_genuine_P
    finest = min(1 / int((~is_genuine_P).sum()), 1 / int(is_genuine_P.sum()))
    low, high = max(finest, 1e-5), 0.6

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for who, similarity_P in measured.networks.items():
            far_S, frr_S = det(similarity_P, is_genuine_P)
            is_inside_S = (far_S > 0) & (frr_S > 0)
            x, y = _deviate(far_S[is_inside_S]), _deviate(frr_S[is_inside_S])
            axes.plot(x.tolist(), y.tolist(), label=who, **LINES[who])
            eer = _deviate(torch.tensor(equal_error_rate(far_S, 1 - frr_S), dtype=torch.float64)).item()
            axes.plot(eer, eer, "o", color=LINES[who]["color"], markersize=6, zorder=4)
        ends = _deviate(torch.tensor([low, high], dtype=torch.float64)).tolist()
        axes.plot(ends, ends, color="#c3c7cc", linewidth=1, zorder=1, label="equal errors")
        for which in ("x", "y"):
            _deviate_axis(axes, which, low, high)
        axes.set_xlabel("false accept rate (FAR), %")
        name_y(axes, "false reject rate (FRR), %")
        legend(figure, handles_of(axes))

    return draw(
        "det",
        plot,
        alt=f"DET of champion and teacher on {measured.description}.",
        caption=f"DET on {measured.description}, axes as normal deviates. Nearer to the lower left corner is "
        "better; dots are the equal error rates.",
    )


def _deviate(rate: Tensor) -> Tensor:
    return torch.special.ndtri(rate.double())


def _deviate_axis(axes: Axes, which: str, low: float, high: float) -> None:
    rates = [rate for rate in DEVIATES if low <= rate <= high]
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(_deviate(torch.tensor(rates, dtype=torch.float64)).tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(
            lambda deviate, _: f"{100 * torch.special.ndtr(torch.tensor(deviate).double()).item():.3g}"
        )
    )
    getattr(axes, f"set_{which}lim")(*_deviate(torch.tensor([low, high], dtype=torch.float64)).tolist())


def _numbers(measured: Measured) -> Table:
    pairs = measured.pairs
    rows = []
    k = finest_far(int((~pairs.is_genuine_P).sum()))
    for who, similarity_P in measured.networks.items():
        accuracy = ten_fold(2 * (1 - similarity_P), pairs.is_genuine_P).accuracy
        interval = accuracy_interval(similarity_P, pairs)
        far_S, tar_S = roc(similarity_P, pairs.is_genuine_P)
        row = [
            who,
            f"{100 * accuracy:.2f} %",
            f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %",
            f"{100 * equal_error_rate(far_S, tar_S):.2f} %",
            f"{area_under_curve(far_S, tar_S):.4f}",
        ]
        if k is not None:
            row.append(f"{100 * tar_at_far(similarity_P, pairs.is_genuine_P, far=10.0**-k).tar:.2f} %")
        rows.append(row)
    head = ["", "accuracy", "95 % interval", "EER", "AUC", *([f"TAR at FAR {10.0**-k:.2g}"] if k else [])]
    return Table(
        caption=f"On {measured.description}",
        head=head,
        rows=rows,
        numeric=frozenset(range(1, len(head))),
        row_heads=True,
    )


def groups(known: Knowledge) -> Content:
    """Errors of champion and teacher in each demographic group, with intervals."""
    measured = known.measured
    pairs = measured.pairs
    if len(pairs.group_names) < 2:
        raise MissingError(f"The {measured.description} name no demographic groups.")
    shared = {
        who: ten_fold(2 * (1 - similarity_P), pairs.is_genuine_P).is_right
        for who, similarity_P in measured.networks.items()
    }
    errors = {
        (who, group): _own_error(similarity_P, pairs, group)
        for who, similarity_P in measured.networks.items()
        for group in range(len(pairs.group_names))
    }

    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        for place, who in enumerate(measured.networks):
            for group in range(len(pairs.group_names)):
                error, low, high = (100 * value for value in errors[who, group])
                y = group + (place - 0.5) * 0.36
                axes.barh(y, error, height=0.34, label=who, zorder=2, **BARS[who])
                axes.errorbar(
                    error,
                    y,
                    xerr=[[max(0.0, error - low)], [max(0.0, high - error)]],
                    color=INK,
                    linewidth=1.2,
                    capsize=3,
                    zorder=3,
                )
                at_shared = 100 * (~shared[who][pairs.group_P == group]).double().mean().item()
                axes.plot(
                    at_shared,
                    y,
                    "D",
                    markersize=5,
                    markerfacecolor="white",
                    markeredgecolor=BLUE,
                    markeredgewidth=1.4,
                    linestyle="none",
                    zorder=4,
                    label="at one threshold for all",
                )
        axes.set_yticks(range(len(pairs.group_names)), list(pairs.group_names))
        axes.set_ylim(len(pairs.group_names) - 0.45, -0.55)
        axes.set_xlim(left=0)
        axes.margins(x=0.06)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("wrongly judged pairs, %")
        legend(figure, handles_of(axes))

    people = (
        "over people drawn anew" if pairs.identity_N is not None else "of 1.96 standard errors over ten folds"
    )
    return Content(
        pictures=[
            draw(
                "groups",
                plot,
                height_inches=1.3 + 0.62 * len(pairs.group_names),
                alt="Wrongly judged pairs by group: "
                + listed(
                    [
                        f"{name} {100 * errors['champion', group][0]:.1f} % for the champion and "
                        f"{100 * errors['teacher', group][0]:.1f} % for the teacher"
                        for group, name in enumerate(pairs.group_names)
                    ]
                )
                + ".",
                caption=f"Errors on {measured.description} by demographic group, at the thresholds that suit "
                f"the group, with intervals of 95 % {people}. The hollow diamond is what the group meets "
                "where one threshold serves everybody. Even a perfectly fair network shows unequal groups.",
            )
        ]
    )


def _own_error(similarity_P: Tensor, pairs: VerificationPairs, group: int) -> tuple[float, float, float]:
    """Share of a group's pairs that are judged wrongly at its own thresholds, and its interval of 95 %."""
    is_of_P = pairs.group_P == group
    own = dataclasses.replace(
        pairs,
        left_P=pairs.left_P[is_of_P],
        right_P=pairs.right_P[is_of_P],
        is_genuine_P=pairs.is_genuine_P[is_of_P],
        group_P=torch.zeros_like(pairs.group_P[is_of_P]),
        group_names=(),
    )
    accuracy = ten_fold(2 * (1 - similarity_P[is_of_P]), own.is_genuine_P).accuracy
    interval = accuracy_interval(similarity_P[is_of_P], own)
    return 1 - accuracy, 1 - interval.high, 1 - interval.low
