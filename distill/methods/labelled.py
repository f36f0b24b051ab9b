"""Distillation on faces whose identities are known, which SFace, fair KD and bridge distillation share.

A finite set of faces is drawn once and kept, and so are the teacher's embeddings of it and of its mirror
images: every later pass, and every later trial in the same process, goes without the teacher.

B: this process's share of the batch, N: images of the set, C: classes, D: width of the target's embedding
"""

import hashlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from distill.faces import AnyFacesSettings, LabelledFaces
from distill.faces.degrade import Degradation
from distill.faces.pixels import as_floats
from distill.faces.store import ImageStore
from distill.losses import Need
from distill.losses.class_centres import mean_directions
from distill.methods.base import Batch, Method, MethodContext, MethodSettings
from distill.teachers import Teacher
from distill.teachers.adapter import (
    AdapterSettings,
    AnyAdapterSettings,
    NoAdapterSettings,
    adapted,
    train_adapter,
)

Strategy = Literal["classification", "transfer", "combined"]
Made = TypeVar("Made")

KAPPA = 39.0625
"""Weight of 1 - cos that equals 10,000 times the squared error of unit embeddings of width 512."""
EMBED_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the student imitates, and all that it says of a set of faces.

    Attributes:
        network: The teacher, or an adapter on top of it.
        embedding_2ND: Its embeddings of the set, of shape (2, N, D): as they are, and mirrored.
        centre_CD: The mean direction of each class, unit vectors.
    """

    network: Teacher
    embedding_2ND: Tensor
    centre_CD: Tensor


class LabelledDistillation(Method):
    """Deals a labelled set out in batches, without an end.

    Either every image comes once a pass, in an order of the pass's own, or every batch holds several faces of
    each of its classes. A random half of the faces is mirrored, for student and teacher alike. What a batch
    holds is a function of the seed and the number of its step.

    Args:
        faces: The set.
        target: What is imitated.
        view: Makes the student's view of a sharp face; None: student and teacher see the same image.
        faces_per_class: Faces of each class in a batch; 1 leaves it to chance.
    """

    def __init__(
        self,
        faces: LabelledFaces,
        target: Target,
        *,
        view: Degradation | None,
        faces_per_class: int,
        context: MethodContext,
    ):
        self.target, self.num_classes = target.network, faces.num_classes
        self.teacher_centre_CD = target.centre_CD
        self._faces, self._embedding_2ND, self._view = faces, target.embedding_2ND, view
        self._first_C = faces.first_images
        self._size_C = torch.bincount(faces.label_N)
        self._faces_per_class = faces_per_class
        self._batch_size, self._rows = context.batch_size, context.shard.rows(context.batch_size)
        self._seed, self._device = context.seed, context.device
        self._step = 0
        self._turn, self._order_N = -1, torch.empty(0, dtype=torch.long)

    def next_batch(self) -> Batch:
        images, index_B = self._faces.read(self._choose(self._step)[self._rows])
        if isinstance(self._faces.images, ImageStore):
            self._faces.images.expect(self._choose(self._step + 1)[self._rows])
        mirror_B = (torch.rand(self._batch_size, generator=self._stream("mirror", self._step)) < 0.5)[
            self._rows
        ]
        sharp = as_floats(images.to(self._device))
        sharp = torch.where(mirror_B.to(self._device)[:, None, None, None], sharp.flip(-1), sharp)
        images, teacher_images = sharp, None
        if self._view is not None:
            draws = self._view.draw(self._batch_size, self._stream("view", self._step))
            images, teacher_images = self._view(sharp, draws[self._rows]), sharp
        self._step += 1
        return Batch(
            images=images,
            teacher_images=teacher_images,
            teacher_BD=self._embedding_2ND[mirror_B.long(), index_B].to(self._device),
            labels_B=self._faces.label_N[index_B].to(self._device),
        )

    def observe(self, *, student_BD: Tensor, teacher_BD: Tensor) -> dict[str, Tensor]:
        if student_BD.shape != teacher_BD.shape:
            return {}
        return {"similarity": F.cosine_similarity(student_BD, teacher_BD).mean()}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]

    def _choose(self, step: int) -> Tensor:
        """The images of a step's whole batch, over all processes."""
        if self._faces_per_class > 1:
            return self._choose_by_class(step)
        turn, place = divmod(step, len(self._faces) // self._batch_size)
        if turn != self._turn:
            self._order_N = torch.randperm(len(self._faces), generator=self._stream("order", turn))
            self._turn = turn
        return self._order_N[place * self._batch_size :][: self._batch_size]

    def _choose_by_class(self, step: int) -> Tensor:
        rng = self._stream("classes", step)
        num_classes = self._batch_size // self._faces_per_class
        class_P = torch.randperm(len(self._size_C), generator=rng)[:num_classes]
        # The smallest of as many random numbers as the class has images: distinct ones of each class.
        draw_PM = torch.rand(num_classes, int(self._size_C.max()), generator=rng)
        draw_PM[torch.arange(draw_PM.shape[1]) >= self._size_C[class_P, None]] = torch.inf
        place_PK = draw_PM.argsort(1)[:, : self._faces_per_class]
        return (self._first_C[class_P, None] + place_PK).flatten()

    def _stream(self, purpose: str, count: int) -> torch.Generator:
        """Random numbers that a purpose and a count decide, whatever was drawn before."""
        key = hashlib.sha256(f"{self._seed}/{purpose}/{count}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(key[:4], "little"))


class LabelledSettings(MethodSettings):
    """What methods on labelled sets have in common."""

    strategy: Strategy = "combined"
    """classification: tell the classes apart by the trial's margin. transfer: imitate the teacher by the
    trial's losses; labels are used by those that ask for them alone. combined: both, added up."""
    num_classes: PositiveInt
    """Identities of the set."""
    images_per_class: int = Field(ge=1, le=1000)
    """Images of each."""
    faces_per_class: PositiveInt = 1
    """Faces of each class in a batch. 1: faces come in random order. Losses that compare faces of one person
    need 2 or more."""
    adapter: AnyAdapterSettings = NoAdapterSettings()
    """A trained layer between the teacher's embedding and what the student imitates."""

    @property
    def offers(self) -> frozenset[Need]:
        offered: set[Need] = {"labels", "teacher_centres", "feature_maps"}
        if self.classifies and self.transfers:
            offered.add("classifier")
        if self.faces_per_class > 1:
            offered.add("positives")
        return frozenset(offered)

    @property
    def classifies(self) -> bool:
        return self.strategy != "transfer"

    @property
    def transfers(self) -> bool:
        return self.strategy != "classification"

    def target_dim(self, teacher_dim: int) -> int:
        return teacher_dim if (adapter := self._adapter_in_use()) is None else adapter.width

    def refusal(self, batch_size: int) -> str | None:
        fewest = self.fewest_images_per_class()
        if self.faces_per_class > fewest:
            return (
                f"faces_per_class must be at most the {fewest} images of a class, got {self.faces_per_class}"
            )
        if batch_size % self.faces_per_class:
            return (
                f"faces_per_class must divide training.batch_size ({batch_size}), got {self.faces_per_class}"
            )
        if self.faces_per_class > 1 and batch_size // self.faces_per_class > self.num_classes:
            return (
                f"num_classes must be at least the {batch_size // self.faces_per_class} of a batch, "
                f"got {self.num_classes}"
            )
        if self.num_classes * fewest < batch_size:
            return (
                f"num_classes times images_per_class must be at least training.batch_size ({batch_size}), "
                f"got {self.num_classes * fewest}"
            )
        return None

    def fewest_images_per_class(self) -> int:
        """How many images the smallest class has."""
        return self.images_per_class

    @abstractmethod
    def draw(self, faces: AnyFacesSettings) -> LabelledFaces:
        """Draws the set."""

    def view(self, faces: AnyFacesSettings) -> Degradation | None:
        """How the student's view of a sharp face is made. None: it is the same image."""
        if faces.sharp_px == faces.size_px:
            return None
        return Degradation(resolutions_px=(faces.size_px,), out_px=faces.size_px)

    def build(self, context: MethodContext) -> LabelledDistillation:
        faces = context.faces
        of_set = self.model_dump_json(exclude={"strategy", "faces_per_class", "adapter"})
        drawn = _kept(("faces", faces.model_dump_json(), of_set), lambda: self.draw(faces))
        return LabelledDistillation(
            drawn,
            _target(drawn, self._adapter_in_use(), context),
            view=self.view(faces),
            faces_per_class=self.faces_per_class,
            context=context,
        )

    def _adapter_in_use(self) -> AdapterSettings | None:
        """None where nothing is adapted, or nobody imitates what would be."""
        return self.adapter if isinstance(self.adapter, AdapterSettings) and self.transfers else None


def _target(faces: LabelledFaces, adapter: AdapterSettings | None, context: MethodContext) -> Target:
    """What the student imitates, adapted to the set where that is asked for."""
    teacher, device = context.teacher, context.device
    key = (faces.digest, teacher.digest, str(device))
    teacher_2ND = _kept(("embeddings", *key), lambda: _embed(faces, teacher, device))
    if adapter is None:
        return Target(
            network=teacher, embedding_2ND=teacher_2ND, centre_CD=class_centres(teacher_2ND, faces.label_N)
        )

    def adapt() -> Target:
        trained, _ = train_adapter(
            adapter, teacher_2ND[0], faces.label_N, num_classes=faces.num_classes, seed=context.seed
        )
        target_2ND = torch.stack([trained(teacher_ND) for teacher_ND in teacher_2ND])
        return Target(
            network=adapted(teacher, trained.to(device)),
            embedding_2ND=target_2ND,
            centre_CD=class_centres(target_2ND, faces.label_N),
        )

    return _kept(("adapter", *key, adapter.model_dump_json(), context.seed), adapt)


def class_centres(embedding_2ND: Tensor, label_N: Tensor) -> Tensor:
    """The mean direction of each class's unit embeddings, mirrored ones among them: unit, of shape (C, D)."""
    unit_ND = F.normalize(embedding_2ND, dim=-1).sum(0)
    return mean_directions(unit_ND, label_N, num_classes=int(label_N.max()) + 1)


@torch.no_grad()
def _embed(faces: LabelledFaces, teacher: Teacher, device: torch.device) -> Tensor:
    batches = []
    for index_B in torch.arange(len(faces)).split(EMBED_BATCH):
        images, _ = faces.read(index_B)
        sharp = as_floats(images.to(device)).contiguous(memory_format=torch.channels_last)
        batches.append(torch.stack([teacher(sharp), teacher(sharp.flip(-1))]).cpu())
    return torch.cat(batches, dim=1)


_warm: OrderedDict[Hashable, Any] = OrderedDict()
_MAX_WARM = 6


def _kept(key: Hashable, make: Callable[[], Made]) -> Made:
    """What was made for `key` before in this process, or is made now. The longest unused goes first."""
    if key not in _warm:
        _warm[key] = make()
    _warm.move_to_end(key)
    while len(_warm) > _MAX_WARM:
        _warm.popitem(last=False)
    return _warm[key]
