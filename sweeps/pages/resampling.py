"""SynthDistill's re-sampling in the champion: how far it stepped over time, and the faces that it made.

B: faces of a batch, D: width of the embedding
"""

from typing import cast

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from distill.config import TrialConfig
from distill.evaluation.mode import evaluating
from distill.faces.pixels import as_bytes
from distill.methods import MethodContext, Shard, SynthDistillSettings
from sweeps.pages.content import Content, MissingError, Picture
from sweeps.pages.faces import Pair, draw_pairs, height_inches
from sweeps.pages.knowledge import Champion, Knowledge
from sweeps.pages.style import BLUE, GREEN, INK, draw, handles_of, legend, name_y, whole_numbers

NUM_FACES = 12
ENDS = ("p10", "p50", "p90")


def over_time(known: Knowledge) -> Content:
    """How similarity and radius were spread in each epoch of the champion's training."""
    champion = _resampling_champion(known)
    method = cast(SynthDistillSettings, champion.config.method)
    radius, similarity = "train/resampling_radius", "train/similarity"
    names = [f"{name}{end}" for name in (similarity, radius) for end in ("", *(f"_{end}" for end in ENDS))]
    curves = known.curves(champion.row, names)
    if similarity not in curves:
        raise MissingError("MLflow holds no similarity by epoch of the champion.")
    pictures = [
        _spread_picture(
            curves,
            similarity,
            name="resampling_similarity",
            label="cosine of student and teacher",
            colour=BLUE,
            caption="How alike student and teacher were on the faces of each epoch, explored and re-sampled.",
        )
    ]
    if radius in curves:
        pictures.append(
            _spread_picture(
                curves,
                radius,
                name="resampling_coefficient",
                label="radius of a step, units of the latent",
                colour=GREEN,
                caption=f"How far latents moved from explored to re-sampled faces: the coefficient "
                f"{method.resampling_coef:.3g} times what {method.resampling} makes of the similarity.",
            )
        )
    text = []
    if f"{similarity}_p10" in curves:
        text.append(
            "Bands reach from the tenth to the ninetieth percentile of a batch, lines are medians; each is "
            "the mean over the steps of an epoch."
        )
    else:
        text.append("This sweep recorded means alone.")
    return Content(text=text, pictures=pictures)


def _spread_picture(
    curves: dict[str, list[tuple[int, float]]],
    metric: str,
    *,
    name: str,
    label: str,
    colour: str,
    caption: str,
) -> Picture:
    def plot(figure: Figure) -> None:
        axes = figure.subplots()
        if all(f"{metric}_{end}" in curves for end in ENDS):
            epochs = [epoch for epoch, _ in curves[f"{metric}_p50"]]
            low, middle, high = ([v for _, v in curves[f"{metric}_{end}"]] for end in ENDS)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.22, linewidth=0, label="p10 to p90")
            for edge in (low, high):
                axes.plot(epochs, edge, color=colour, linewidth=0.8, marker=".", markersize=4)
            axes.plot(epochs, middle, color=colour, marker="o", markersize=5, label="median")
        epochs, means = zip(*curves[metric], strict=True)
        axes.plot(epochs, means, color=INK, linestyle=(0, (2, 2)), marker="x", markersize=5, label="mean")
        axes.margins(x=0.04, y=0.12)
        if len(epochs) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set_xlabel("epoch")
        name_y(axes, label)
        whole_numbers(axes.xaxis)
        legend(figure, handles_of(axes))

    first, last = curves[metric][0], curves[metric][-1]
    return draw(
        name,
        plot,
        alt=f"{label} by epoch: its mean went from {first[1]:.3f} in epoch {first[0]} to {last[1]:.3f} in "
        f"epoch {last[0]}.",
        caption=caption,
        height_inches=3.2,
    )


def faces(known: Knowledge) -> Content:
    """Explored faces of the champion's trial, and what one step of its method makes of them."""
    champion = _resampling_champion(known)
    method = cast(SynthDistillSettings, champion.config.method)
    shown, similarity_B = _step(known, champion)
    how = ": the more it agrees with its teacher on a face, the further it moves on"
    return Content(
        text=[
            "The faces with which the champion's training began, drawn again, and what one step of its "
            f"method ({method.resampling}) makes of them when the finished student is asked"
            f"{how if method.resampling.startswith('adaptive') else ''}."
        ],
        pictures=[
            draw(
                "resampled_faces",
                lambda figure: draw_pairs(figure, shown),
                height_inches=height_inches(len(shown)),
                alt=f"{len(shown)} explored faces, and beside each the face re-sampled from it. The mean "
                f"cosine of student and teacher on the explored ones is {similarity_B.mean():.2f}.",
                caption="Left the explored face, right the re-sampled one. Under each pair: the cosine of "
                "student and teacher on the one and on the other, and the standard deviation of the step "
                "between them, in units of the latent.",
            )
        ],
    )


@torch.no_grad()
def _step(known: Knowledge, champion: Champion) -> tuple[list[Pair], Tensor]:
    """Explores once and re-samples once, as the method does it.

    Returns:
        The faces in pairs, and the cosine of student and teacher on the explored ones, of shape (B,).
    """
    config, student, teacher = champion.config, champion.student, known.teacher_network
    method = config.method.build(
        MethodContext(
            faces=config.faces,
            generator=config.faces.generator(),
            teacher=teacher,
            batch_size=NUM_FACES,
            seed=config.seed,
            shard=Shard(),
            device=torch.device("cpu"),
        )
    )
    images, similarities = [], []
    radius_B = torch.zeros(NUM_FACES)
    with evaluating(student):
        for is_explored in (True, False):
            images.append(method.next_batch().images)
            student_BD, teacher_BD = student(images[-1]), teacher(images[-1])
            method.observe(student_BD=student_BD, teacher_BD=teacher_BD)
            similarities.append(F.cosine_similarity(student_BD, teacher_BD))
            if is_explored:
                radius_B = method.state_dict()["radius"]
    pairs = [
        Pair(
            left=as_bytes(left.clamp(-1, 1)),
            right=as_bytes(right.clamp(-1, 1)),
            text=f"{before:.2f} → {after:.2f}  (step {radius:.2f})",
        )
        for left, right, before, after, radius in zip(*images, *similarities, radius_B, strict=True)
    ]
    return pairs, similarities[0]


def _resampling_champion(known: Knowledge) -> Champion:
    """The champion, where its method re-samples."""
    if known.best is None:
        raise MissingError(
            "No trial has completed, so there is no champion whose re-sampling could be shown."
        )
    config: TrialConfig = known.space.config(known.best.params)
    if not config.faces.draws:
        raise MissingError(
            "Training faces are read from files: there is no generator whose latents could be re-sampled."
        )
    if not isinstance(config.method, SynthDistillSettings):
        raise MissingError(
            f"The champion's method, {config.method.model_dump()['name']}, does not re-sample."
        )
    if config.method.resampling == "off":
        raise MissingError("The champion does not re-sample: its method.resampling is off.")
    return known.champion
