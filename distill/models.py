"""Trained embedders, by what people call them: a student's folder, a file of one, or a registry's address."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from torch import nn

from distill.checkpoint import WEIGHTS, StudentCard, load_student, sha256_of
from distill.errors import InputError
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.faces.packs import PairsSettings
from distill.runtimes import OnnxNetwork, load_exported

PLUGINS = "distill.models"
"""Entry points that fetch the student behind an address, named after its scheme: `models` is MLflow's."""
EMBEDDED_PAIRS = ("embedded-validation", "embedded-benchmark")


@dataclass(frozen=True, kw_only=True)
class Model:
    """An embedder that can be measured.

    Attributes:
        network: Maps faces of shape (B, 3, H, H), RGB in [-1, 1], to raw embeddings.
        size_px: H.
        sha256: Of its file of weights.
        file: That file.
        card: What is known of a student; None of a file from elsewhere.
    """

    network: nn.Module
    size_px: int
    sha256: str
    file: Path
    card: StudentCard | None = None

    @property
    def captured_px(self) -> int | None:
        """Side of the photographs that are reduced for it; None: they are taken at `size_px`."""
        return None if self.card is None else self.card.captured_px


def load_model(reference: str, *, size_px: int | None = None) -> Model:
    """Loads an embedder, whole. Nothing is unpickled.

    Args:
        reference: A student's folder, an `.onnx` or `.pt2` file, or an address such as `models:/NAME@ALIAS`.
        size_px: Side of the faces, for a file that does not tell.

    Raises:
        InputError: If there is none, it is damaged, or it takes no faces.
    """
    scheme, colon, _ = reference.partition(":/")
    if colon:
        return _student(_fetcher(scheme)(reference))
    path = Path(reference)
    match path.suffix:
        case ".onnx":
            network = OnnxNetwork(path)
            known_px = network.input_px
        case ".pt2":
            network = load_exported(path)
            known_px = network.input_px
        case _:
            return _student(path)
    if (side_px := known_px or size_px) is None:
        raise InputError(f"{path} does not tell the side of its faces: give it with --size")
    if size_px not in (None, side_px):
        raise InputError(f"--size must be {side_px} for {path}, got {size_px}")
    return Model(network=network, size_px=side_px, sha256=sha256_of(path), file=path)


def named_pairs(data: str, pairs: Path | None, model: Model) -> VerificationPairs:
    """Verification pairs at the size that a model takes.

    Args:
        data: `embedded-validation`, `embedded-benchmark`, or a pack: a `.bin` file or a folder.
        pairs: The file that pairs up a folder's images, where the folder does not hold it.

    Raises:
        InputError: If there is no such pack, or it is damaged.
    """
    if data in EMBEDDED_PAIRS:
        faces = EmbeddedFacesSettings(size_px=model.size_px, captured_px=model.captured_px)
        return faces.benchmark_pairs() if data == "embedded-benchmark" else faces.validation_pairs()
    path = Path(data)
    return PairsSettings(path=path, pairs=pairs).load(name=path.stem, size_px=model.size_px)


def _student(folder: Path) -> Model:
    network, card = load_student(folder)
    return Model(
        network=network,
        size_px=card.size_px,
        sha256=card.sha256,
        file=folder / WEIGHTS,
        card=card,
    )


def _fetcher(scheme: str) -> Callable[[str], Path]:
    plugins = {plugin.name: plugin for plugin in entry_points(group=PLUGINS)}
    if scheme not in plugins:
        raise InputError(
            f"a model's address must begin with {', '.join(f'{name}:/' for name in sorted(plugins))}, "
            f"got {scheme}:/"
        )
    return plugins[scheme].load()
