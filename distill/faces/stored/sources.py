"""Sources of training faces on disk: which kind a path is, who is on its images, and several as one set.

N: images of a set, C: identities, G: groups
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from distill.errors import InputError
from distill.faces.labelled import LabelledFaces
from distill.faces.store import ImageStore
from distill.faces.stored.files import SUFFIXES
from distill.faces.stored.folders import image_names, open_folder
from distill.faces.stored.identified import Identified
from distill.faces.stored.manifest import open_manifest, read_columns
from distill.faces.stored.records import open_records
from distill.faces.stored.views import HeldImages, JoinedImages, SelectedImages
from distill.settings import LocalPath, Settings

KINDS = "a .rec file, a folder with train.rec, a folder of identity folders, or a .csv or .parquet manifest"
NOT_FACES = {
    ".idx": "the index of a pack, whose .rec file is to be named",
    ".lst": "a list that a pack is made from",
    ".bin": "a verification pack, which has pairs and no identities",
    ".mdb": "an LMDB database",
    ".zip": "an archive, which must be unpacked",
    ".tar": "an archive, which must be unpacked",
    ".tgz": "an archive, which must be unpacked",
    ".gz": "an archive, which must be unpacked",
    **dict.fromkeys(SUFFIXES, "a single image"),
}
SHARE_TOLERANCE = 1e-6


class SourceSettings(Settings):
    """One source of training faces."""

    path: LocalPath
    """A .rec file, with its .idx beside it; a folder with train.rec; a folder that has one folder of images
    for each identity; or a .csv or .parquet manifest with columns path, identity and, optionally, group."""
    authentic: bool = True
    """Whether the images are photographs; otherwise a generator made them."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Share of the images of the mix, where there are several sources. Unset, of all of them: every image of
    every source is used."""
    groups: LocalPath | None = None
    """A CSV file with the columns identity and group, which tells the demographic group of every identity: by
    the name of its folder, its name in the manifest, or its number in the pack."""
    max_corrupt_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of the images that may be unreadable. Others of the same identity take their places."""


def open_source(settings: SourceSettings, *, size_px: int) -> LabelledFaces:
    """Opens a source. Its images are decoded when they are read, and brought to `size_px`.

    Its digest is of what can be told without decoding: paths, keys, sizes, offsets, identities and `size_px`.
    An image that was exchanged for another of the same size is not seen.

    Raises:
        InputError: If there is no such source, it is damaged, or the group of an identity is unknown.
    """
    path = settings.path
    found = _opener(path)(path, size_px=size_px, max_corrupt_share=settings.max_corrupt_share)
    groups = found.groups
    if settings.groups is not None:
        if groups is not None:
            raise InputError(f"groups must be unset where {path} has a column group, got {settings.groups}")
        groups = _mapped_groups(settings.groups, found)
    names_G = tuple(sorted(set(groups or ())))
    group_C = torch.zeros(len(found.identities), dtype=torch.long)
    if groups is not None:
        number = {name: index for index, name in enumerate(names_G)}
        group_C = torch.tensor([number[name] for name in groups])
    return LabelledFaces(
        images=found.images,
        label_N=found.label_N,
        group_N=group_C[found.label_N],
        authentic_N=torch.full((len(found.label_N),), settings.authentic),
        group_names=names_G,
    )


def subset(faces: LabelledFaces, keep_N: Tensor) -> LabelledFaces:
    """The images that are kept, without a copy; the classes that are left are numbered anew.

    Args:
        keep_N: Whether each image is kept, bool.

    Raises:
        ValueError: If none is.
    """
    if not keep_N.any():
        raise ValueError("keep_N must keep an image, got none")
    return LabelledFaces(
        images=SelectedImages(_store(faces), keep_N.nonzero().squeeze(1)),
        label_N=faces.label_N[keep_N].unique(return_inverse=True)[1],
        group_N=faces.group_N[keep_N],
        authentic_N=faces.authentic_N[keep_N],
        group_names=faces.group_names,
    )


def mix(parts: Sequence[LabelledFaces], shares: Sequence[float | None]) -> LabelledFaces:
    """Several sets as one. No person of one is in another: classes are numbered on.

    Where shares are given, whole identities are left out, always the same ones, so that the numbers of images
    come to them within half of one identity's images, and as many images as possible are used.

    Args:
        parts: At least one set; all of them have groups, or none.
        shares: Each set's share of the images; None for all of them: nothing is left out.

    Raises:
        InputError: If some have shares or groups and others not, or the shares do not sum to 1.
    """
    parts = _in_shares(parts, shares)
    if len(parts) == 1:
        return parts[0]
    if len({bool(part.group_names) for part in parts}) > 1:
        number = [bool(part.group_names) for part in parts].index(False) + 1
        raise InputError(
            f"groups must be told by every source of a mix or by none, source {number} tells none"
        )
    names_G = tuple(sorted({name for part in parts for name in part.group_names}))
    starts = [0, *torch.tensor([part.num_classes for part in parts]).cumsum(0).tolist()]
    return LabelledFaces(
        images=JoinedImages(tuple(_store(part) for part in parts)),
        label_N=torch.cat([part.label_N + start for part, start in zip(parts, starts, strict=False)]),
        group_N=torch.cat([_renumbered(part, names_G) for part in parts]),
        authentic_N=torch.cat([part.authentic_N for part in parts]),
        group_names=names_G,
    )


def _in_shares(parts: Sequence[LabelledFaces], shares: Sequence[float | None]) -> Sequence[LabelledFaces]:
    given = [share for share in shares if share is not None]
    if not given:
        return parts
    if len(given) < len(shares):
        raise InputError(f"share must be set for every source or for none, got {len(given)} of {len(shares)}")
    if abs(sum(given) - 1) > SHARE_TOLERANCE:
        raise InputError(f"share must sum to 1 over all sources, got {' + '.join(f'{s:g}' for s in given)}")
    num_images = min(len(part) / share for part, share in zip(parts, given, strict=True))
    return [_thinned(part, num_images * share) for part, share in zip(parts, given, strict=True)]


def _thinned(faces: LabelledFaces, num_images: float) -> LabelledFaces:
    """The set without some identities, always the same ones: as near to a number of images as can be."""
    size_C = torch.bincount(faces.label_N)
    order_C = torch.randperm(len(size_C), generator=torch.Generator().manual_seed(0))
    num_kept = int((size_C[order_C].cumsum(0) - num_images).abs().argmin()) + 1
    if num_kept == len(size_C):
        return faces
    is_kept_C = torch.zeros(len(size_C), dtype=torch.bool)
    is_kept_C[order_C[:num_kept]] = True
    return subset(faces, is_kept_C[faces.label_N])


def _store(faces: LabelledFaces) -> ImageStore:
    return faces.images if isinstance(faces.images, ImageStore) else HeldImages(faces.images)


def _renumbered(faces: LabelledFaces, names_G: tuple[str, ...]) -> Tensor:
    """Group of each image, as an index of other names."""
    if not names_G:
        return faces.group_N
    return torch.tensor([names_G.index(name) for name in faces.group_names])[faces.group_N]


def _opener(path: Path) -> Callable[..., Identified]:
    """What opens a path.

    Raises:
        InputError: If nothing does; it tells what the path looks like.
    """
    if path.is_dir():
        return _folder_opener(path)
    if not path.exists():
        raise InputError(f"path must be {KINDS}, but {path} does not exist")
    suffix = path.suffix.lower()
    if suffix == ".rec":
        return open_records
    if suffix in (".csv", ".parquet"):
        return open_manifest
    looks_like = NOT_FACES.get(suffix, "none of these")
    raise InputError(f"path must be {KINDS}, but {path} is {looks_like}")


def _folder_opener(path: Path) -> Callable[..., Identified]:
    if (path / "train.rec").exists():
        return lambda folder, **options: open_records(folder / "train.rec", **options)
    packs = sorted(path.glob("*.rec"))
    if packs:
        raise InputError(f"path must be {KINDS}, but {path} has no train.rec: name {packs[0].name} itself")
    if (path / "data.mdb").exists():
        raise InputError(f"path must be {KINDS}, but {path} is an LMDB database")
    if (path / "train.idx").exists():
        raise InputError(f"path must be {KINDS}, but {path} has a train.idx without its train.rec")
    has_folders = any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())
    if not has_folders and image_names(path):
        raise InputError(f"path must be {KINDS}, but {path} has images that are in no identity's folder")
    return open_folder


def _mapped_groups(path: Path, found: Identified) -> list[str]:
    """The group of each identity, from a file.

    Raises:
        InputError: If it cannot be read, contradicts itself, or lacks an identity.
    """
    table = read_columns(path, required=("identity", "group"))
    group_of: dict[str, str] = {}
    for identity, group in zip(table["identity"].to_pylist(), table["group"].to_pylist(), strict=True):
        if group_of.setdefault(identity, group) != group:
            raise InputError(f"{path} must tell one group of each identity, got several of {identity}")
    unknown = [identity for identity in found.identities if identity not in group_of]
    if unknown:
        raise InputError(
            f"{path} must tell the group of every identity, got none of {len(unknown):,} of the "
            f"{len(found.identities):,} identities, the first of them {unknown[0]}"
        )
    return [group_of[identity] for identity in found.identities]
