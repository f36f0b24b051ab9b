"""A trained layer between a teacher's embedding and what a student imitates.

It is the first step of Bridge Distillation, which moves a teacher's knowledge from the private faces that it
was trained on to public ones, and makes it compact:

    L1 = CE(softmax(V z), y) + a R(z, T(x)) + b compact(z),    z = A(T(x))

Ge et al., "Efficient Low-Resolution Face Recognition via Bridge Distillation", IEEE TIP 2020.
https://arxiv.org/abs/2409.11786

The paper's text leaves R, compact and the layers of A open: the choices offered here are ours. Fed with the
concatenated embeddings of several specialists, the same layer merges them into one teacher.

Caldeira et al., "MST-KD: Multiple Specialized Teachers Knowledge Distillation for Fair Face Recognition",
ECCV Workshops 2024. https://arxiv.org/abs/2408.16563

N: faces of the set, B: batch, D: width of the teacher's embedding, K: width of the adapted one, C: classes
"""

import hashlib
import math
from collections.abc import Iterator
from typing import Annotated, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from distill.errors import DivergenceError
from distill.losses.class_centres import mean_directions
from distill.losses.hinton_kl import hinton_kl
from distill.settings import Settings
from distill.teachers.base import Teacher

Layers = Literal["linear", "mlp"]
Term = Literal["cross_entropy", "reprojection", "soft_label", "pairwise", "l1", "centre"]

WEIGHT_DECAY = 5e-4


class NoAdapterSettings(Settings):
    """The student imitates the teacher's own embedding."""

    name: Literal["none"] = "none"


class AdapterSettings(Settings):
    """A linear layer, or two with a PReLU between, and how they are trained."""

    name: Layers = "linear"
    """linear is MST-KD's single layer; mlp its dual one, whose hidden layer is as wide as its last."""
    width: Literal[64, 128, 256] = 128
    """Width of the adapted embedding, the paper's k."""
    classifier: Literal["plain", "cosine"] = "plain"
    """What tells the classes apart: inner products V z, or scaled cosines of z to the rows of V."""
    scale: float = Field(default=32.0, gt=0.0)
    """What cosines are multiplied with before a softmax: the cosine classifier's, and the teacher's to its
    class centres. Usually 32 or 64."""
    regression: Literal["reprojection", "soft_label", "pairwise", "none"] = "reprojection"
    """What is kept of the teacher, R. reprojection: the embedding itself, up to a linear map. soft_label: how
    alike it finds a face and each class. pairwise: how alike it finds two faces."""
    regression_weight: float = Field(default=1.0, ge=0.0)
    """The paper's a. 0 leaves R out. No term depends on the scale of the teacher's embeddings, but pairwise
    is a small number: it needs 10 or more to be heard beside the classification."""
    temperature: float = Field(default=4.0, gt=0.0)
    """What logits are divided by in soft_label. Nothing else looks at it."""
    compactness: Literal["none", "l1", "centre"] = "none"
    """What keeps the adapted embedding small beside its width: sparse entries, or classes close together."""
    compactness_weight: float = Field(default=0.0, ge=0.0)
    """The paper's b. 0 leaves the term out, whatever `compactness` says."""
    epochs: PositiveInt = 20
    """Passes over the set."""
    batch_size: int = Field(default=256, ge=2)
    """Faces of an optimiser step. More than the set holds means all of it."""
    lr: float = Field(default=3e-3, gt=0.0)
    """First learning rate of AdamW; it falls to 0 along a cosine."""


AnyAdapterSettings = Annotated[
    NoAdapterSettings | AdapterSettings,
    Field(discriminator="name", description="A trained layer on top of the teacher."),
]


class Adapter(nn.Module):
    """Maps raw teacher embeddings of shape (B, D) to (B, K): one linear layer or two, then BN.

    Args:
        layers: `linear`, or `mlp`: linear, BN, PReLU, linear, BN.
        teacher_dim: D.
        width: K.
    """

    def __init__(self, layers: Layers, *, teacher_dim: int, width: int):
        super().__init__()
        self.width = width
        # Biases would be undone by the BN that follows.
        modules: list[nn.Module] = [nn.Linear(teacher_dim, width, bias=False), nn.BatchNorm1d(width)]
        if layers == "mlp":
            modules += [nn.PReLU(width), nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)]
        self.layers = nn.Sequential(*modules)

    def forward(self, teacher_BD: Tensor) -> Tensor:
        return self.layers(teacher_BD)


def reprojection(restored_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean over batch and dimensions of the squared difference.

    Of teacher embeddings centred and divided by their spread it is the share of their variance that was not
    restored: 0 at best, 1 for a constant.
    """
    return F.mse_loss(restored_BD, teacher_BD)


def pairwise(z_BK: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean over all B^2 pairs of the squared difference of cosine similarities, in [0, 4].

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019. https://arxiv.org/abs/1907.09682
    """
    unit_BK, unit_BD = F.normalize(z_BK), F.normalize(teacher_BD)
    return F.mse_loss(unit_BK @ unit_BK.T, unit_BD @ unit_BD.T)


def sparsity(z_BK: Tensor) -> Tensor:
    """Mean over batch and dimensions of the absolute value."""
    return z_BK.abs().mean()


def centre_loss(z_BK: Tensor, centre_BK: Tensor) -> Tensor:
    """Half the squared distance of each embedding to its class's centre, averaged over the batch.

    Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016.
    https://ydwen.github.io/papers/WenECCV16.pdf
    """
    return (z_BK - centre_BK).square().sum(1).mean() / 2


class AdapterObjective(nn.Module):
    """L1 of a batch, and what only training needs: V, U and the learned class centres.

    Args:
        settings: Which terms, and their weights.
        teacher_ND: The teacher's raw embeddings of the whole set.
        label_N: Their classes, in [0, C).
        num_classes: C.
    """

    mean_D: Tensor
    spread: Tensor
    teacher_centre_CD: Tensor

    def __init__(self, settings: AdapterSettings, teacher_ND: Tensor, label_N: Tensor, *, num_classes: int):
        super().__init__()
        teacher_dim = teacher_ND.shape[1]
        unit_ND = F.normalize(teacher_ND)
        centre_CD = mean_directions(unit_ND, label_N, num_classes=num_classes)
        # One spread for all dimensions: a teacher's directions keep their weights.
        self.register_buffer("mean_D", teacher_ND.mean(0))
        self.register_buffer("spread", teacher_ND.var(0, correction=0).mean().sqrt())
        self.register_buffer("teacher_centre_CD", centre_CD)
        self.settings = settings
        self.classifier = nn.Linear(settings.width, num_classes, bias=False)
        self.restore = nn.Linear(settings.width, teacher_dim, bias=False)
        self.centre_CK = nn.Parameter(torch.zeros(num_classes, settings.width))
        asked: dict[Term | Literal["none"], float] = {
            "cross_entropy": 1.0,
            settings.regression: settings.regression_weight,
            settings.compactness: settings.compactness_weight,
        }
        self.weights: dict[Term, float] = {
            name: weight for name, weight in asked.items() if name != "none" and weight > 0
        }

    def forward(self, z_BK: Tensor, teacher_BD: Tensor, label_B: Tensor) -> dict[Term, Tensor]:
        """The terms of L1 that have a weight, by name and before weighting, each of shape ()."""
        logits_BC = self.logits(z_BK)
        return {name: self._term(name, logits_BC, z_BK, teacher_BD, label_B) for name in self.weights}

    def total(self, terms: dict[Term, Tensor]) -> Tensor:
        """L1, the weighted sum of its terms."""
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()

    def logits(self, z_BK: Tensor) -> Tensor:
        """The adapter's class scores, of shape (B, C)."""
        if self.settings.classifier == "plain":
            return self.classifier(z_BK)
        return self.settings.scale * F.normalize(z_BK) @ F.normalize(self.classifier.weight).T

    def teacher_logits(self, teacher_BD: Tensor) -> Tensor:
        """Scaled cosines of teacher embeddings to the teacher's class centres, of shape (B, C).

        A class's centre is the mean direction of its faces. A class without faces is at cosine 0.
        """
        return self.settings.scale * F.normalize(teacher_BD) @ self.teacher_centre_CD.T

    def _term(
        self, name: Term, logits_BC: Tensor, z_BK: Tensor, teacher_BD: Tensor, label_B: Tensor
    ) -> Tensor:
        match name:
            case "cross_entropy":
                return F.cross_entropy(logits_BC, label_B)
            case "reprojection":
                return reprojection(self.restore(z_BK), (teacher_BD - self.mean_D) / self.spread)
            case "soft_label":
                return hinton_kl(
                    logits_BC, self.teacher_logits(teacher_BD), temperature=self.settings.temperature
                )
            case "pairwise":
                return pairwise(z_BK, teacher_BD)
            case "l1":
                return sparsity(z_BK)
            case "centre":
                return centre_loss(z_BK, self.centre_CK[label_B])


def train_adapter(
    settings: AdapterSettings, teacher_ND: Tensor, label_N: Tensor, *, num_classes: int, seed: int
) -> tuple[Adapter, dict[str, float]]:
    """Trains an adapter on a teacher's cached embeddings, on the device that they are on.

    On a CPU the same arguments, with as many threads, give the same weights. The caller's random streams
    stay where they are.

    Args:
        settings: Its layers, its loss and its training.
        teacher_ND: Raw embeddings, of shape (N, D).
        label_N: Their classes, integers in [0, `num_classes`), of shape (N,). Some may be without faces.
        num_classes: C.
        seed: Decides the initial weights and the order of the faces.

    Returns:
        The adapter, frozen and in eval mode, and the terms of its loss: means over the last pass, before
        weighting, of `cross_entropy` and of the `regression` and `compactness` that have a weight.

    Raises:
        ValueError: If the embeddings and the labels do not fit each other, hold what is no number or no
            class, are of fewer than two classes, or are all the same.
        DivergenceError: If the loss is not finite.
    """
    _check(teacher_ND, label_N, num_classes=num_classes)
    teacher_ND, label_N = teacher_ND.detach().float(), label_N.to(teacher_ND.device)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would seed the accelerators' streams too, which are not forked here.
        torch.default_generator.manual_seed(seed)
        adapter = Adapter(settings.name, teacher_dim=teacher_ND.shape[1], width=settings.width)
        objective = AdapterObjective(settings, teacher_ND, label_N, num_classes=num_classes)
    network = nn.ModuleList([adapter, objective]).to(teacher_ND.device)

    batch_size = min(settings.batch_size, len(teacher_ND))
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=WEIGHT_DECAY, fused=True)
    # The last steps are small, so that BN's running statistics are those of the final weights.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=settings.epochs * (len(teacher_ND) // batch_size)
    )
    rng = torch.Generator().manual_seed(seed)
    means: dict[str, float] = {}
    for _ in range(settings.epochs):
        history: list[dict[Term, Tensor]] = []
        for row_B in _minibatches(len(teacher_ND), batch_size, rng):
            teacher_BD, label_B = teacher_ND[row_B], label_N[row_B]
            terms = objective(adapter(teacher_BD), teacher_BD, label_B)
            optimizer.zero_grad()
            objective.total(terms).backward()
            optimizer.step()
            schedule.step()
            history.append({name: term.detach() for name, term in terms.items()})
        means = _finite_means(history)
    return adapter.requires_grad_(False).eval(), means


def adapted(teacher: Teacher, adapter: Adapter) -> Teacher:
    """The teacher whose embedding is the adapter's output. Both networks are shared, not copied.

    Its digest covers the teacher's and the adapter's weights. What the teacher's card claims of accuracy does
    not hold for it: the whole card becomes the entry `adapts` of a new one.
    """
    weights = {name: tensor.contiguous() for name, tensor in adapter.state_dict().items()}
    digest = hashlib.sha256(teacher.digest.encode() + safetensors.torch.save(weights)).hexdigest()
    return Teacher(
        nn.Sequential(teacher.network, adapter),
        name=f"{teacher.name}+adapter",
        embedding_dim=adapter.width,
        input_px=teacher.input_px,
        digest=digest,
        card={
            "name": f"{teacher.name}+adapter",
            "embedding_dim": adapter.width,
            "input_px": teacher.input_px,
            "sha256": digest,
            "adapts": teacher.card,
        },
    )


def _check(teacher_ND: Tensor, label_N: Tensor, *, num_classes: int) -> None:
    """Raises a ValueError for a set that no adapter can be trained on."""
    if teacher_ND.ndim != 2:
        raise ValueError(f"teacher_ND must have shape (N, D), got {tuple(teacher_ND.shape)}")
    if label_N.shape != teacher_ND.shape[:1]:
        raise ValueError(f"label_N must have shape ({len(teacher_ND)},), got {tuple(label_N.shape)}")
    if label_N.dtype != torch.int64:
        raise ValueError(f"label_N must be of torch.int64, got {label_N.dtype}")
    classes = label_N.unique().tolist()
    if len(classes) < 2:
        raise ValueError(f"label_N must name at least 2 classes, got {len(classes)}")
    if classes[0] < 0 or classes[-1] >= num_classes:
        raise ValueError(
            f"label_N must be in [0, num_classes = {num_classes}), got {classes[0]} to {classes[-1]}"
        )
    if not teacher_ND.isfinite().all():
        raise ValueError("teacher_ND must be finite, got an entry that is not")
    if (teacher_ND == teacher_ND[0]).all():
        raise ValueError(f"teacher_ND must hold different embeddings, got {len(teacher_ND)} equal ones")


def _minibatches(num_faces: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """The rows of one pass in a random order, in full batches; the few that are left over wait a pass."""
    order_N = torch.randperm(num_faces, generator=rng)
    full = num_faces - num_faces % batch_size
    yield from order_N[:full].split(batch_size)


def _finite_means(history: list[dict[Term, Tensor]]) -> dict[str, float]:
    """The mean of each term over the steps of a pass."""
    means: dict[str, float] = {
        name: torch.stack([terms[name] for terms in history]).mean().item() for name in history[0]
    }
    if not all(map(math.isfinite, means.values())):
        raise DivergenceError(f"the adapter's loss must stay finite, got {means}")
    return means
