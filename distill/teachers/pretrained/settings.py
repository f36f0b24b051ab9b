"""A teacher from elsewhere: published weights, and the facts that they are worthless without.

A wrong colour order, scale or eps raises no error and costs accuracy: none of them is guessed. They are known
for a known family, read from a file that tells, and asked for otherwise.

IResNets of arcface_torch and those ported from MXNet have the same names. `auto` takes the former, unless the
gain of the last BN was trained or its BNs never counted a batch, which arcface_torch does not leave behind:
it then asks.

D: width of the embedding, H: side of the image
"""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from distill.checkpoint import sha256_of
from distill.errors import InputError, TeacherError
from distill.faces.packs import PairsSettings
from distill.runtimes import OnnxNetwork, load_exported
from distill.settings import LocalPath, Settings
from distill.teachers.base import Teacher
from distill.teachers.load import fill
from distill.teachers.pretrained.checkpoint import read_tensors, reason, without_prefix
from distill.teachers.pretrained.families import FAMILIES, KnownFamily
from distill.teachers.pretrained.look import GraphFamily, Look, look_at
from distill.teachers.pretrained.preprocessing import Facts, Preprocessed, Preprocessing

Family = Literal[KnownFamily, GraphFamily, "factory"]

MIRROR_MARGIN = 0.3
"""By how much a face must be more like its mirror image than like other faces, in cosine.

Teachers of the embedded world reach 0.69 to 0.98 on it. Untrained networks have 0.05 to 0.2 with BN as it is
made, and 0.13 to 0.33 once it has met faces; the embedded teacher has 0.08 if it is fed pixels of 0 to 255,
0.27 with its colours swapped, and 0.43 with pixels of 0 to 1: only verification finds the subtler errors."""

COUNTER = "num_batches_tracked"
"""Last part of the name of a BN's counter of batches. It is no weight, and old files lack it."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything that must be known before weights become a teacher.

    Attributes:
        family: Which network it is.
        facts: All that is known of it, for the record.
        preprocessing: What it was trained on.
        embedding_dim: D.
    """

    family: Family
    facts: Facts
    preprocessing: Preprocessing
    embedding_dim: int


class PretrainedTeacherSettings(Settings):
    """A face recogniser that others trained, from the file of its weights."""

    name: Literal["pretrained"] = "pretrained"
    weights: LocalPath
    """A state dictionary, alone or in a checkpoint (by torch.save, or safetensors), an ONNX graph or a
    torch.export archive. Nothing of it is ever executed."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Digest that the file must have. Unset: any."""
    family: Literal["auto", Family] = "auto"
    """Which network the weights are of. auto: by the names in the file. iresnet: InsightFace's arcface_torch.
    iresnet_mxnet: the same, ported from MXNet, with another scale and eps. factory: your own."""
    factory: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:function` on Python's path, called without arguments for the network that the weights
    are loaded into. For family factory only: it executes code of yours."""
    facts: Facts = Facts()
    """What neither the family nor the file tells, or what is otherwise with this network."""
    verification: PairsSettings | None = None
    """Pairs of faces that the teacher must tell apart before it teaches: its self-test."""
    verification_at_least: float | None = Field(default=None, gt=0.5, le=1.0)
    """Ten-fold accuracy that it must reach on `verification`; 0.99 is little for LFW."""
    mirror_margin: float = Field(default=MIRROR_MARGIN, ge=0.0, le=1.0)
    """By how much it must find a face more like its mirror image than like other faces, in cosine. 0 lets
    networks through that nobody trained."""
    licence: str | None = None
    """Under which the weights may be used, for the record: a file does not say."""

    @model_validator(mode="after")
    def _an_accuracy_is_asked_of_pairs(self) -> Self:
        if (self.verification is None) != (self.verification_at_least is None):
            raise ValueError("verification and verification_at_least must be given together, got one of them")
        return self

    @model_validator(mode="after")
    def _a_factory_is_asked_for(self) -> Self:
        if (self.factory is None) == (self.family == "factory"):
            raise ValueError(
                "factory must be given for family factory and for no other, "
                f"got factory {self.factory} and family {self.family}"
            )
        return self

    @property
    def embedding_dim(self) -> int:
        """Width of the teacher's embeddings. Reads the names and shapes in the file; raises as `load`."""
        return self._spec().embedding_dim

    @property
    def input_px(self) -> int:
        """Side of the faces that the teacher was trained on. Reads and raises as `embedding_dim`."""
        return self._spec().preprocessing.size_px

    def load(self) -> Teacher:
        """Loads the teacher, whole and verified.

        Its digest covers the file, the family and the facts, since other facts make another teacher of the
        same file; the file's own SHA-256 is on the card. A factory's code is in neither.

        Raises:
            TeacherError: If the file is missing, damaged, not the one named, of another network or more than
                tensors; or if a fact is missing or contradicts the file.
        """
        spec = self._spec()
        sha256 = sha256_of(self.weights)
        if self.sha256 not in (None, sha256):
            raise TeacherError(f"teacher.sha256: {self.weights} has {sha256}, expected {self.sha256}")
        network = self._network(spec)
        identity = (sha256, spec.family, self.factory or "", spec.facts.model_dump_json())
        return Teacher(
            Preprocessed(network, spec.preprocessing),
            name=self.weights.stem,
            embedding_dim=spec.embedding_dim,
            input_px=spec.preprocessing.size_px,
            digest=hashlib.sha256("\n".join(identity).encode()).hexdigest(),
            card={
                "name": self.weights.stem,
                "family": spec.family,
                "factory": self.factory,
                "network": type(network).__name__,
                "parameters": sum(parameter.numel() for parameter in network.parameters()),
                "facts": spec.facts.model_dump(mode="json", exclude_none=True),
                "weights": str(self.weights),
                "bytes": self.weights.stat().st_size,
                "sha256": sha256,
                "licence": self.licence,
            },
        )

    def _spec(self) -> Spec:
        look = look_at(self.weights)
        family = self._family_of(look)
        known = Facts() if family == "factory" else look.known
        for name in ("embedding_dim", "size_px"):
            told, given = getattr(known, name), getattr(self.facts, name)
            if None not in (told, given) and told != given:
                raise TeacherError(f"teacher.facts.{name} must be {told} for {self.weights}, got {given}")
        if family in FAMILIES:
            known = known.over(FAMILIES[family].facts)
        elif self.facts.bn_eps is not None:
            raise TeacherError(
                f"teacher.facts.bn_eps must not be given for family {family}, whose network brings its own, "
                f"got {self.facts.bn_eps}"
            )
        facts = self.facts.over(known)
        preprocessing = facts.model_dump(exclude={"embedding_dim", "bn_eps"})
        needed = preprocessing | {"embedding_dim": facts.embedding_dim}
        missing = [name for name, value in needed.items() if value is None]
        if facts.embedding_dim is None or missing:
            raise TeacherError(
                f"teacher.facts must give {', '.join(missing)} for {self.weights}: neither its family "
                f"({family}) nor the file tells"
            )
        return Spec(
            family=family,
            facts=facts,
            preprocessing=Preprocessing(**preprocessing),
            embedding_dim=facts.embedding_dim,
        )

    def _family_of(self, look: Look) -> Family:
        """The family that was named, if the file is of it; the file's own for auto."""
        if self.family == "factory":
            if look.family in ("onnx", "exported"):
                raise TeacherError(
                    f"teacher.weights: {self.weights} looks like {look.title}, which needs no factory"
                )
            return self.family
        if look.family is None:
            raise TeacherError(f"teacher.weights: {self.weights} looks like {look.title}")
        if self.family == "auto":
            if look.looks_ported:
                raise TeacherError(
                    f"teacher.family must be iresnet or iresnet_mxnet for {self.weights}, which fits both "
                    "and does not look as if arcface_torch had trained it"
                )
            return look.family
        if look.family != ("iresnet" if self.family == "iresnet_mxnet" else self.family):
            raise TeacherError(
                f"teacher.family: {self.weights} looks like {look.title}, which is not {self.family}"
            )
        return self.family

    def _network(self, spec: Spec) -> nn.Module:
        """The network with its weights, before anything is done to faces."""
        if spec.family in FAMILIES:
            return _known_network(self.weights, spec.family, spec.facts)
        try:
            match spec.family:
                case "onnx":
                    network = OnnxNetwork(self.weights)
                case "exported":
                    network = load_exported(self.weights)
                case _:
                    network = self._from_factory()
        except TeacherError:
            raise
        except InputError as error:
            raise TeacherError(f"teacher.weights: {error}") from error
        _check_output(network.eval(), spec, self.weights)
        return network

    def _from_factory(self) -> nn.Module:
        assert self.factory is not None
        module, _, function = self.factory.partition(":")
        try:
            network = getattr(importlib.import_module(module), function)()
        except Exception as error:  # it is the user's code
            raise TeacherError(f"teacher.factory: {self.factory} fails ({error!r})") from error
        if not isinstance(network, nn.Module):
            raise TeacherError(
                f"teacher.factory: {self.factory} must return a torch.nn.Module, got {type(network).__name__}"
            )
        tensors = read_tensors(self.weights)
        # No other name of the network is long enough to end with the longest.
        landmark = max(network.state_dict(), key=len, default="")
        _fill(network, without_prefix(tensors, landmark, self.weights) or tensors, self.weights)
        return network


def _known_network(path: Path, name: KnownFamily, facts: Facts) -> nn.Module:
    """A network of a known family, with the weights of a file and the eps of its facts."""
    family = FAMILIES[name]
    assert facts.size_px is not None
    assert facts.bn_eps is not None
    weights = without_prefix(read_tensors(path), family.landmark, path)
    try:
        with torch.device("meta"):
            network = family.build({name: tensor.shape for name, tensor in weights.items()}, facts.size_px)
    except LookupError as error:
        raise TeacherError(
            f"teacher.weights: {path} looks like {family.title}, but it lacks {error.args[0]}"
        ) from error
    _fill(network.to_empty(device="cpu"), weights, path)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = facts.bn_eps
    return network


def _fill(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """`fill`, but for the BNs' counters of batches, which may be missing, and with finite weights only."""
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise TeacherError(f"teacher.weights: {name} of {path} is not finite")
    counters = (name for name in network.state_dict() if name.endswith(COUNTER))
    fill(network, {name: torch.zeros((), dtype=torch.int64) for name in counters} | weights, path)


def _check_output(network: nn.Module, spec: Spec, path: Path) -> None:
    """Refuses a network whose shapes nobody knew before it ran."""
    size_px = spec.preprocessing.size_px
    try:
        with torch.no_grad():
            embedding_BD = network(torch.zeros(2, 3, size_px, size_px))
    except Exception as error:  # it is a stranger's network, and may raise anything
        raise TeacherError(
            f"teacher.weights: {path} cannot embed faces of {size_px} px ({reason(error)})"
        ) from error
    got = tuple(embedding_BD.shape) if isinstance(embedding_BD, Tensor) else type(embedding_BD).__name__
    if got != (2, spec.embedding_dim):
        raise TeacherError(
            f"teacher.facts.embedding_dim: {path} must embed 2 faces as (2, {spec.embedding_dim}), gave {got}"
        )
