"""The embedded world: faces that are drawn, so that everything works where nothing can be downloaded.

It has two domains. `authentic` stands for photographs. `synthetic` stands for what a generator trained on
them gives: fewer poses and lights, a skewed choice of people, and artefacts. Results on it show that the
system works; they claim nothing about real faces.

B: batch, Z: entries of z, W: entries of w, I: identity factors, G: groups
"""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from distill.faces import factors, portrait
from distill.faces.base import FaceGenerator
from distill.faces.degrade import captured
from distill.faces.factors import FACTORS, GROUPS, NUM_IDENTITY_FACTORS, POSITIONS
from distill.faces.labelled import LabelledFaces, draw_labelled, joined
from distill.faces.pairs import NUM_FOLDS, VerificationPairs, pair_up
from distill.faces.pixels import as_bytes, as_floats
from distill.faces.portrait import Portrait
from distill.faces.settings import FacesSettings, PairFacts

# Three lots of people that never meet.
TRAINING_IDENTITIES = range(1_000_000)
VALIDATION_IDENTITIES = range(1_000_000, 2_000_000)
BENCHMARK_IDENTITIES = range(2_000_000, 3_000_000)
VALIDATION_PAIRS_PER_FOLD, BENCHMARK_PAIRS_PER_FOLD = 320, 600

EDITION = 1
"""Raised whenever a change of the code changes a face: the shipped teacher was trained on one edition."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Where faces come from, and how w is distributed there.

    Attributes:
        group_shares: Share of each group among faces of no given class or group; they sum to 1.
        identity_spread: What deviations from a group's mean identity are multiplied with.
        nuisance_spread: What deviations from the mean nuisance are multiplied with.
        shift: By how much each named factor's mean differs, in entries of w.
        artefacts: Whether the pictures bear a generator's traces.
    """

    group_shares: tuple[float, ...]
    identity_spread: float
    nuisance_spread: float
    artefacts: bool
    shift: dict[str, float] = field(default_factory=dict)


DOMAINS = {
    "authentic": Domain(
        group_shares=(0.40, 0.30, 0.18, 0.12), identity_spread=1.0, nuisance_spread=1.0, artefacts=False
    ),
    "synthetic": Domain(
        group_shares=(0.50, 0.27, 0.13, 0.10),
        identity_spread=1.0,
        nuisance_spread=0.75,
        artefacts=True,
        shift={"wrinkles": -0.5, "beard": -0.4, "freckles": -0.4, "lip_red": 0.4, "smile": 0.4, "blur": -0.3},
    ),
}


class EmbeddedFaces(FaceGenerator):
    """The generator of the embedded world.

    Args:
        domain: A name in `DOMAINS`.
        size_px: Side of the images.
        identities: The people that `classes_B` counts, from its first.
    """

    mixing: Tensor
    shift: Tensor
    spread: Tensor

    def __init__(self, *, domain: str, size_px: int, identities: range = TRAINING_IDENTITIES):
        super().__init__()
        self.domain, self.size_px, self.identities = DOMAINS[domain], size_px, identities
        self.z_dim, self.w_dim = len(FACTORS) + 1, len(FACTORS)
        self.num_classes = len(identities)
        self.group_names = tuple(group.name for group in GROUPS)
        world = (EDITION, FACTORS, GROUPS, self.domain, size_px, identities)
        self.digest = hashlib.sha256(repr(world).encode()).hexdigest()

        seeded = torch.Generator().manual_seed(0)
        square_ZZ = torch.randn(self.z_dim, self.z_dim, generator=seeded, dtype=torch.float64)
        self.register_buffer("mixing", torch.linalg.qr(square_ZZ).Q, persistent=False)
        shift_GW = factors.group_shifts()
        for name, shift in self.domain.shift.items():
            shift_GW[:, POSITIONS[name]] += shift
        self.register_buffer("shift", shift_GW, persistent=False)
        spread_GW = torch.full_like(shift_GW, self.domain.nuisance_spread)
        for group, spread_W in zip(GROUPS, spread_GW, strict=True):
            spread_W[:NUM_IDENTITY_FACTORS] = group.identity_spread * self.domain.identity_spread
        self.register_buffer("spread", spread_GW, persistent=False)

    def mapping(
        self, z_BZ: Tensor, *, classes_B: Tensor | None = None, groups_B: Tensor | None = None
    ) -> Tensor:
        if classes_B is not None and groups_B is not None:
            raise ValueError("classes_B and groups_B must not both be given: a person belongs to one group")
        mixed_BZ = self._mix(z_BZ)
        draws_BW, group_draw_B = mixed_BZ[:, :-1], mixed_BZ[:, -1]
        if classes_B is not None:
            _check_range("classes_B", classes_B, self.num_classes)
            identities_B = classes_B + self.identities.start
            identity_BI = factors.identity_draws(identities_B)
            draws_BW = torch.cat([identity_BI, draws_BW[:, NUM_IDENTITY_FACTORS:]], dim=1)
            groups_B = self.group_of_classes(classes_B)
        elif groups_B is not None:
            _check_range("groups_B", groups_B, len(GROUPS))
        else:
            groups_B = _group_at(torch.special.ndtr(group_draw_B), self.domain.group_shares)
        return (self.shift[groups_B] + self.spread[groups_B] * draws_BW).float()

    def synthesis(self, w_BW: Tensor, *, noise_B: Tensor | None = None) -> Tensor:
        values = factors.factor_values(w_BW)
        faces = Portrait(values, size_px=self.size_px, artefacts=self.domain.artefacts).draw()
        seeds_B = torch.zeros(len(w_BW), device=w_BW.device) if noise_B is None else noise_B
        return portrait.add_sensor_noise(faces, seeds_B, strength=values.noise).mul_(2).sub_(1)

    def group_of_classes(self, classes_B: Tensor) -> Tensor:
        """The demographic group that each identity belongs to, in every domain; int64, of shape (B,)."""
        keys_B = factors.hash_32(classes_B + self.identities.start + 2**31)
        return _group_at(keys_B.double() / 2**32, DOMAINS["authentic"].group_shares)

    def _mix(self, z_BZ: Tensor) -> Tensor:
        """Stands for the mapping network: a rotation, a bend of each axis, a rotation."""
        # In float64, so that the order of sums, which depends on the batch, is lost in the rounding of w.
        rotated_BZ = z_BZ.double() @ self.mixing
        bent_BZ = (rotated_BZ + 0.8 * torch.tanh(2 * rotated_BZ)) / 1.6
        return bent_BZ @ self.mixing


def _group_at(quantile_B: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Cuts [0, 1) into one piece a group, as long as its share, and tells which piece each number is in."""
    bounds_G = torch.tensor(shares, dtype=torch.float64, device=quantile_B.device).cumsum(0)
    return torch.bucketize(quantile_B, bounds_G[:-1], right=True)


def _check_range(name: str, index_B: Tensor, end: int) -> None:
    if index_B.numel() == 0:
        return
    low, high = (int(index) for index in index_B.aminmax())
    if low < 0 or high >= end:
        raise ValueError(f"{name} must lie in [0, {end}), got {low} to {high}")


class EmbeddedFacesSettings(FacesSettings):
    """Faces of the embedded world, which need no download. Evaluation is always on its authentic domain."""

    draws: ClassVar[bool] = True

    name: Literal["embedded"] = "embedded"
    domain: Literal["synthetic", "authentic"] = "synthetic"
    """Where training faces come from: a generator's faces, or photographs. A method that mixes both says
    itself how much of each it takes."""

    def training_digest(self) -> str:
        return self.generator().digest

    def generator(self) -> EmbeddedFaces:
        return EmbeddedFaces(domain=self.domain, size_px=self.size_px)

    def labelled(
        self, *, num_classes: int, images_per_class: int, authentic: bool | None = None
    ) -> LabelledFaces:
        if authentic is None:
            authentic = self.domain == "authentic"
        classes_C = torch.arange(num_classes)
        return self._labelled(classes_C, images_per_class=images_per_class, authentic=authentic)

    def mixed(
        self, *, num_classes: int, authentic_share: float, images_per_class: int, synthetic_per_class: int
    ) -> LabelledFaces:
        classes_C = torch.arange(num_classes)
        group_C = EmbeddedFaces(domain="authentic", size_px=self.sharp_px).group_of_classes(classes_C)
        authentic_C = _stratified(group_C, authentic_share)
        parts = [
            self._labelled(classes_C[chosen_C], images_per_class=number, authentic=authentic)
            for chosen_C, number, authentic in (
                (authentic_C, images_per_class, True),
                (~authentic_C, synthetic_per_class, False),
            )
            if chosen_C.any()
        ]
        return joined(parts)

    def agreement_faces(self, number: int) -> Tensor:
        return EmbeddedFaces(domain=self.domain, size_px=self.sharp_px).fixed_faces(number)

    def pair_facts(self, of: Literal["validation", "benchmark"]) -> PairFacts:
        pairs_per_fold = {"validation": VALIDATION_PAIRS_PER_FOLD, "benchmark": BENCHMARK_PAIRS_PER_FOLD}[of]
        return PairFacts(
            group_names=tuple(group.name for group in GROUPS), num_impostors=NUM_FOLDS * pairs_per_fold // 2
        )

    def validation_pairs(self) -> VerificationPairs:
        """Pairs that trials are ranked on: 3,200 of 160 people."""
        return self._pairs(
            "validation",
            VALIDATION_IDENTITIES,
            people_per_group=40,
            pairs_per_fold=VALIDATION_PAIRS_PER_FOLD,
            seed=1,
        )

    def benchmark_pairs(self) -> VerificationPairs:
        """Pairs for what was selected: 6,000 of 400 other people."""
        return self._pairs(
            "benchmark",
            BENCHMARK_IDENTITIES,
            people_per_group=100,
            pairs_per_fold=BENCHMARK_PAIRS_PER_FOLD,
            seed=2,
        )

    def _pairs(
        self, name: str, identities: range, *, people_per_group: int, pairs_per_fold: int, seed: int
    ) -> VerificationPairs:
        faces = EmbeddedFaces(domain="authentic", size_px=self.sharp_px, identities=identities)
        pairs = photograph(
            faces, name=name, people_per_group=people_per_group, pairs_per_fold=pairs_per_fold, seed=seed
        )
        if self.sharp_px == self.size_px:
            return pairs
        return dataclasses.replace(pairs, images_NCHW=_reduced(pairs.images_NCHW, self.size_px))

    def _labelled(self, classes_C: Tensor, *, images_per_class: int, authentic: bool) -> LabelledFaces:
        domain = "authentic" if authentic else "synthetic"
        generator = EmbeddedFaces(domain=domain, size_px=self.sharp_px)
        return draw_labelled(
            generator,
            classes_C=classes_C,
            group_C=generator.group_of_classes(classes_C),
            images_per_class=images_per_class,
            authentic=authentic,
        )


def _stratified(group_C: Tensor, share: float) -> Tensor:
    """Which classes are chosen, bool: the first `share` of each group, rounded."""
    chosen_C = torch.zeros(len(group_C), dtype=torch.bool)
    for group in group_C.unique():
        members = (group_C == group).nonzero().squeeze(1)
        chosen_C[members[: round(share * len(members))]] = True
    return chosen_C


def _reduced(images_NCHW: Tensor, size_px: int) -> Tensor:
    return torch.cat([as_bytes(captured(as_floats(images), size_px)) for images in images_NCHW.split(256)])


@torch.no_grad()
def photograph(
    faces: EmbeddedFaces,
    *,
    name: str,
    people_per_group: int,
    pairs_per_fold: int,
    seed: int,
    images_per_person: int = 6,
) -> VerificationPairs:
    """Takes photographs of the first people of each group and pairs them up by `pairs.pair_up`."""
    seeded = torch.Generator().manual_seed(seed)
    candidates = torch.arange(100 * people_per_group * len(GROUPS))
    groups = faces.group_of_classes(candidates)
    people = torch.stack(
        [candidates[groups == group][:people_per_group] for group in range(len(GROUPS))], dim=1
    )
    classes_N = people.flatten().repeat_interleave(images_per_person)
    z_NZ = torch.randn(len(classes_N), faces.z_dim, generator=seeded)
    noise_N = torch.rand(len(classes_N), generator=seeded)
    w_NW = faces.mapping(z_NZ, classes_B=classes_N)
    batches = [
        as_bytes(faces.synthesis(w_BW, noise_B=noise_B))
        for w_BW, noise_B in zip(w_NW.split(128), noise_N.split(128), strict=True)
    ]
    return pair_up(
        name=name,
        images_NCHW=torch.cat(batches),
        identity_N=classes_N + faces.identities.start,
        group_N=faces.group_of_classes(classes_N),
        group_names=faces.group_names,
        pairs_per_fold=pairs_per_fold,
        generator=seeded,
    )
