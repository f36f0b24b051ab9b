"""A folder that has one folder of images for each identity, as torchvision's ImageFolder reads it.

N: images
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from distill.errors import InputError
from distill.faces.stored.files import SUFFIXES, FileStore
from distill.faces.stored.identified import Identified


def open_folder(path: Path, *, size_px: int, max_corrupt_share: float) -> Identified:
    """Finds the images of each identity, which is named by its folder.

    Identities and images are ordered by name. An image is what ends like one; what begins with a dot is
    passed over, since archives made on a Mac leave such files beside the images. An identity without images
    takes no label.

    Args:
        path: The folder.
        size_px, max_corrupt_share: As `EncodedStore`.

    Raises:
        InputError: If there is no image, or a folder cannot be read.
    """
    identities, paths, sizes = [], [], []
    for identity in _sub_folders(path):
        images = image_names(os.path.join(path, identity))
        if images:
            folder = os.fsencode(identity)
            identities.append(identity)
            sizes.append(len(images))
            paths.append(pa.array([folder + b"/" + os.fsencode(name) for name in images], pa.large_binary()))
    if not paths:
        raise InputError(f"{path} holds no folder of images; an image ends in one of {', '.join(SUFFIXES)}")
    label_N = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    store = FileStore(
        source=path,
        root=path,
        path_N=pa.concat_arrays(paths),
        label_N=label_N,
        size_px=size_px,
        max_corrupt_share=max_corrupt_share,
    )
    return Identified(images=store, label_N=label_N, identities=tuple(identities))


def image_names(folder: str | Path) -> list[str]:
    """Names of the images in a folder, ordered.

    Raises:
        InputError: If the folder cannot be read.
    """
    return sorted(
        entry.name for entry in _visible(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file()
    )


def _sub_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _visible(folder) if entry.is_dir())


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from error
