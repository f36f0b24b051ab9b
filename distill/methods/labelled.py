"""Distillation on faces whose identities are known, which SFace, fair KD and bridge distillation share.

A finite set of faces is drawn once and kept, and so are the teacher's embeddings of it and of its mirror
images, in memory or in a file for all trials: every later pass, and every later trial, goes without the
teacher. Only where the teacher is to see augmented faces, which never come twice, it embeds every batch anew.

B: this process's share of the batch, N: images of the set, C: classes, D: width of the target's embedding
"""

import functools
import hashlib
import logging
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from distill.embedding_cache import CacheDtype, CacheIdentity, EmbeddingCache, embed_images
from distill.errors import InputError
from distill.faces import AnyFacesSettings, LabelledFaces
from distill.faces.augment import AugmentationSettings
from distill.faces.degrade import Degradation
from distill.faces.pixels import as_floats
from distill.faces.store import ImageStore
from distill.losses import Need
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
CENTRES_BATCH = 4096
TEACHER_IS_ASKED = (
    "the teacher's embedding cache is off where method.augmentation.seen_by is both: "
    "the teacher embeds every batch anew"
)

_log = logging.getLogger(__name__)


class Target:
    """What the student imitates, and all that it says of a set of faces, found when it is first asked for.

    Args:
        network: The teacher, or an adapter on top of it.
        embed: Finds its embeddings of the set, of shape (2, N, D): as they are, and mirrored. Rows of images
            that cannot be read are NaN.
        label_N: The class of each image.
    """

    def __init__(self, network: Teacher, *, embed: Callable[[], Tensor], label_N: Tensor):
        self.network = network
        self._embed, self._label_N = embed, label_N

    @functools.cached_property
    def embeddings(self) -> Tensor:
        """What `embed` finds."""
        return self._embed()

    @functools.cached_property
    def centres(self) -> Tensor:
        """The mean direction of each class: unit vectors, of shape (C, D)."""
        return class_centres(self.embeddings, self._label_N)


class LabelledDistillation(Method):
    """Deals a labelled set out in batches, without an end.

    Either every image comes once a pass, in an order of the pass's own, or every batch holds several faces of
    each of its classes. A random half of the faces is mirrored, for student and teacher alike; augmentation
    comes after. What a batch holds is a function of the seed and the number of its step.

    Args:
        faces: The set.
        target: What is imitated.
        view: Makes the student's view of a sharp face; None: student and teacher see the same image.
        augmentation: How faces are changed before.
        faces_per_class: Faces of each class in a batch; 1 leaves it to chance.
    """

    def __init__(
        self,
        faces: LabelledFaces,
        target: Target,
        *,
        view: Degradation | None,
        augmentation: AugmentationSettings,
        faces_per_class: int,
        context: MethodContext,
    ):
        _refuse_small(faces, context.batch_size, faces_per_class)
        self.target, self.num_classes = target.network, faces.num_classes
        self._faces, self._known, self._view, self._augmentation = faces, target, view, augmentation
        self._embedding_2ND = None if augmentation.reaches_teacher else target.embeddings
        self._first_C = faces.first_images
        self._size_C = torch.bincount(faces.label_N)
        self._faces_per_class = faces_per_class
        self._batch_size, self._rows = context.batch_size, context.shard.rows(context.batch_size)
        self._seed, self._device = context.seed, context.device
        self._step = 0
        self._turn, self._order_N = -1, torch.empty(0, dtype=torch.long)
        self._corrupt_share = torch.zeros(())

    @property
    def teacher_centres(self) -> Tensor:
        return self._known.centres

    def next_batch(self) -> Batch:
        chosen_B = self._choose(self._step)[self._rows]
        images, index_B = self._faces.read(chosen_B)
        self._corrupt_share = (index_B != chosen_B).float().mean()
        if isinstance(self._faces.images, ImageStore):
            self._faces.images.expect(self._choose(self._step + 1)[self._rows])
        mirror_B = (torch.rand(self._batch_size, generator=self._stream("mirror", self._step)) < 0.5)[
            self._rows
        ]
        sharp = as_floats(images.to(self._device))
        sharp = torch.where(mirror_B.to(self._device)[:, None, None, None], sharp.flip(-1), sharp)
        images, teacher_images = sharp, sharp
        if self._augmentation.is_on:
            draw_BK = self._augmentation.draw(self._batch_size, self._stream("augmentation", self._step))
            images = self._augmentation.apply(sharp, draw_BK[self._rows])
            teacher_images = images if self._augmentation.reaches_teacher else sharp
        if self._view is not None:
            draws = self._view.draw(self._batch_size, self._stream("view", self._step))
            images = self._view(images, draws[self._rows])
        self._step += 1
        return Batch(
            images=images,
            teacher_images=None if teacher_images is images else teacher_images,
            teacher_BD=None
            if self._embedding_2ND is None
            else self._embedding_2ND[mirror_B.long(), index_B].to(self._device).float(),
            labels_B=self._faces.label_N[index_B].to(self._device),
        )

    def observe(self, *, student_BD: Tensor, teacher_BD: Tensor) -> dict[str, Tensor]:
        """The agreement of both, and where it applies: the share of this process's faces that could not be
        read, and that the teacher's embeddings are not cached."""
        observed = {}
        if student_BD.shape == teacher_BD.shape:
            observed["similarity"] = F.cosine_similarity(student_BD, teacher_BD).mean()
        if isinstance(self._faces.images, ImageStore):
            observed["corrupt_share"] = self._corrupt_share.to(student_BD.device)
        if self._augmentation.reaches_teacher:
            observed["teacher_cached"] = student_BD.new_zeros(())
        return observed

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
        # Sets that are read may have smaller classes, whose images then come more than once.
        place_PK = place_PK % self._size_C[class_P, None]
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
    augmentation: AugmentationSettings = AugmentationSettings()
    """Random changes of the faces, beside mirroring."""
    cache_dtype: CacheDtype = "float32"
    """How the teacher's embeddings are kept. float16 takes half of the room and keeps three digits."""

    BESIDE_THE_SET: ClassVar[frozenset[str]] = frozenset(
        {"strategy", "faces_per_class", "adapter", "augmentation", "cache_dtype"}
    )
    """Settings that do not decide which faces are in the set."""

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
        drawn = _kept(("faces", self.set_of(faces)), lambda: self.draw(faces))
        if self.augmentation.reaches_teacher:
            _log.warning("%s", TEACHER_IS_ASKED)
        return LabelledDistillation(
            drawn,
            self._target(drawn, context),
            view=self.view(faces),
            augmentation=self.augmentation,
            faces_per_class=self.faces_per_class,
            context=context,
        )

    def set_of(self, faces: AnyFacesSettings) -> str:
        """Everything that decides which set `draw` gives."""
        return faces.model_dump_json() + self.model_dump_json(exclude=set(self.BESIDE_THE_SET))

    def cache(
        self, faces: LabelledFaces, *, size_px: int, teacher: Teacher, directory: Path
    ) -> EmbeddingCache:
        """Where a teacher's embeddings of the set `faces`, of `size_px`, are kept in a folder of caches."""
        identity = CacheIdentity(
            faces=faces.digest,
            teacher=teacher.digest,
            size_px=size_px,
            num_images=len(faces),
            width=teacher.embedding_dim,
            dtype=self.cache_dtype,
        )
        return EmbeddingCache(directory=directory, identity=identity)

    def _target(self, faces: LabelledFaces, context: MethodContext) -> Target:
        """What the student imitates, adapted to the set where that is asked for."""
        teacher, device, adapter = context.teacher, context.device, self._adapter_in_use()
        key = (faces.digest, teacher.digest, str(device), self.cache_dtype)
        embed = functools.partial(embed_images, faces=faces, teacher=teacher, device=device)

        def find() -> Tensor:
            if context.cache is None:
                dtype = getattr(torch, self.cache_dtype)
                return _kept(("embeddings", *key), lambda: embed(range(len(faces))).to(dtype))
            size_px = context.faces.sharp_px
            return self.cache(faces, size_px=size_px, teacher=teacher, directory=context.cache).load(embed)

        if adapter is None:
            return Target(teacher, embed=find, label_N=faces.label_N)

        def adapt() -> Target:
            teacher_2ND = find()
            readable_N = ~teacher_2ND[0, :, 0].isnan()
            trained, _ = train_adapter(
                adapter,
                teacher_2ND[0][readable_N],
                faces.label_N[readable_N],
                num_classes=faces.num_classes,
                seed=context.seed,
            )
            target_2ND = torch.stack([trained(teacher_ND.float()) for teacher_ND in teacher_2ND])
            network = adapted(teacher, trained.to(device))
            return Target(network, embed=lambda: target_2ND, label_N=faces.label_N)

        return _kept(("adapter", *key, adapter.model_dump_json(), context.seed), adapt)

    def _adapter_in_use(self) -> AdapterSettings | None:
        """None where nothing is adapted, or nobody imitates what would be."""
        return self.adapter if isinstance(self.adapter, AdapterSettings) and self.transfers else None


def _refuse_small(faces: LabelledFaces, batch_size: int, faces_per_class: int) -> None:
    """Sets that are read may hold less than was asked for."""
    most = len(faces) if faces_per_class == 1 else faces.num_classes * faces_per_class
    if most < batch_size:
        raise InputError(
            f"training.batch_size must be at most {most} for a set of {len(faces)} images of "
            f"{faces.num_classes} identities, got {batch_size}"
        )


def class_centres(embedding_2ND: Tensor, label_N: Tensor) -> Tensor:
    """The mean direction of each class's unit embeddings, mirrored ones among them: unit, of shape (C, D).

    Rows of NaN are left out; a class without others has a centre of zeros.
    """
    centre_CD = torch.zeros(int(label_N.max()) + 1, embedding_2ND.shape[-1])
    # By and by, since all the embeddings may be more than the memory holds.
    for rows in torch.arange(len(label_N)).split(CENTRES_BATCH):
        first, end = int(rows[0]), int(rows[-1]) + 1
        unit_BD = F.normalize(embedding_2ND[:, first:end].float(), dim=-1).sum(0)
        readable_B = ~unit_BD[:, 0].isnan()
        centre_CD.index_add_(0, label_N[first:end][readable_B], unit_BD[readable_B])
    return F.normalize(centre_CD)


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
