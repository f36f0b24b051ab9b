"""Faces of a converted StyleGAN2: what a trial's settings make of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.errors import InputError
from distill.faces import StyleGAN2FacesSettings
from distill.faces.stylegan2 import load_generator
from distill.faces.stylegan2.convert import convert
from tests.distill.faces.stylegan2 import nvidia
from tests.distill.faces.stylegan2.by_hand import random_tensors
from tests.distill.faces.test_files import benchmark

SMALL: dict[str, Any] = {
    "resolution": 32,
    "channel_base": 1024,
    "channel_max": 8,
    "z_dim": 6,
    "w_dim": 10,
    "layers": 2,
}


def converted(folder: Path, *, c_dim: int = 0) -> Path:
    sizes = {**SMALL, "c_dim": c_dim}
    network = nvidia.generator(random_tensors(**sizes), **sizes)
    source = folder / f"network-{c_dim}.pkl"
    source.write_bytes(nvidia.written(nvidia.snapshot(network)))
    return convert(source, folder / f"converted-{c_dim}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generated")
    converted(root)
    converted(root, c_dim=5)
    benchmark(root / "lfw.bin")
    return root


def settings(root: Path, *, c_dim: int = 0, **changes: object) -> StyleGAN2FacesSettings:
    told = {
        "weights": root / f"converted-{c_dim}.safetensors",
        "validation": {"path": root / "lfw.bin"},
        "benchmark": {"path": root / "lfw.bin"},
        "size_px": 16,
    }
    return StyleGAN2FacesSettings.model_validate(told | changes)


def test_agreement_is_measured_on_the_same_faces_always(root: Path) -> None:
    faces = settings(root).agreement_faces(40)
    assert faces.shape == (40, 3, 16, 16)
    assert torch.equal(faces, settings(root).agreement_faces(40))
    assert len(faces.flatten(1).unique(dim=0)) == 40


def test_what_changes_a_face_changes_the_digest(root: Path) -> None:
    told = [{}, {"psi": 0.5}, {"noise": "none"}, {"antialias": True}, {"crop": "none"}, {"size_px": 24}]
    digests = [settings(root, **changes).training_digest() for changes in told]
    assert len(set(digests)) == len(told)
    assert settings(root).training_digest() == digests[0]


def test_an_image_is_taken_whole_where_it_is_a_face_already(root: Path) -> None:
    whole = settings(root, crop="none", size_px=32, noise="none").generator()
    w_BW = whole.mapping(torch.randn(3, whole.z_dim, generator=torch.Generator().manual_seed(0)))
    ws_BLW = w_BW[:, None].expand(-1, whole.network.architecture.num_ws, -1)
    images = whole.network.synthesis(ws_BLW, lambda layer, stored: None).clamp(-1, 1)
    torch.testing.assert_close(whole.synthesis(w_BW), images)


def test_a_labelled_set_is_drawn_of_the_generators_classes(root: Path) -> None:
    drawn = settings(root, c_dim=5).labelled(num_classes=4, images_per_class=3)
    assert drawn.label_N.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert not drawn.authentic_N.any()
    mixed = settings(root, c_dim=5).mixed(
        num_classes=4, authentic_share=0.0, images_per_class=9, synthetic_per_class=3
    )
    assert mixed.digest == drawn.digest


def test_what_a_generator_has_not_is_told(root: Path) -> None:
    with pytest.raises(InputError, match=r"num_classes must be at most the 5 classes of .*, got 6"):
        settings(root, c_dim=5).labelled(num_classes=6, images_per_class=1)
    with pytest.raises(InputError, match="num_classes must be at most the 0 classes"):
        settings(root).labelled(num_classes=1, images_per_class=1)
    with pytest.raises(InputError, match="photographs"):
        settings(root, c_dim=5).labelled(num_classes=2, images_per_class=1, authentic=True)
    with pytest.raises(InputError, match=r"authentic_share must be 0 .*, got 0\.5"):
        settings(root).mixed(num_classes=2, authentic_share=0.5, images_per_class=1, synthetic_per_class=1)


def test_a_pickle_is_no_generator_that_a_trial_loads(root: Path) -> None:
    with pytest.raises(InputError, match="is not a converted generator"):
        load_generator(root / "network-0.pkl", size_px=16)


def test_sharp_faces_are_drawn_where_small_ones_are_made_of_them(root: Path) -> None:
    assert settings(root, captured_px=24).agreement_faces(2).shape[-1] == 24
    assert settings(root, captured_px=24).validation_pairs().images_NCHW.shape[-1] == 16
