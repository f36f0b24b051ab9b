"""Preprocessing against what model cards say of a pixel, by hand."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from distill.teachers.pretrained import Facts, Preprocessed, Preprocessing

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
PIXELS = torch.tensor([0.0, 1.0, 127.0, 128.0, 200.0, 255.0, 17.0, 99.0, 254.0, 3.0, 64.0, 31.0]).reshape(
    1, 3, 2, 2
)


class Keeps(nn.Module):
    """Keeps the very tensor that it is given."""

    def forward(self, images: Tensor) -> Tensor:
        self.given = images
        return images.flatten(1)


def given(pixels: Tensor, *, mean: object = 127.5, std: object = 127.5, color_order: str = "RGB") -> Tensor:
    """What a network is given of a face of these pixels in 0..255."""
    wanted = Preprocessing.model_validate(
        {"color_order": color_order, "mean": mean, "std": std, "size_px": 16}
    )
    network = Keeps()
    Preprocessed(network, wanted)(pixels / 127.5 - 1)
    return network.given


@pytest.mark.parametrize(("mean", "std"), [(127.5, 127.5), (127.5, 128.0), (0.0, 1.0), (0.0, 255.0)])
def test_a_pixel_is_shifted_and_scaled(mean: float, std: float) -> None:
    torch.testing.assert_close(given(PIXELS, mean=mean, std=std), (PIXELS - mean) / std, rtol=1e-5, atol=2e-5)


def test_channels_may_differ() -> None:
    expected = PIXELS.clone()
    for channel, (mean, std) in enumerate(zip(IMAGENET["mean"], IMAGENET["std"], strict=True)):
        expected[:, channel] = (PIXELS[:, channel] - mean) / std
    torch.testing.assert_close(
        given(PIXELS, mean=IMAGENET["mean"], std=IMAGENET["std"]), expected, rtol=1e-5, atol=1e-5
    )


def test_bgr_swaps_red_and_blue() -> None:
    expected = torch.stack([PIXELS[:, 2], PIXELS[:, 1], PIXELS[:, 0]], dim=1) / 127.5 - 1
    torch.testing.assert_close(given(PIXELS, color_order="BGR"), expected)


def test_means_are_of_the_channels_as_the_network_sees_them() -> None:
    blue = given(PIXELS, mean=(10.0, 20.0, 30.0), std=1.0, color_order="BGR")[:, 0]
    torch.testing.assert_close(blue, PIXELS[:, 2] - 10, rtol=1e-5, atol=2e-5)


def test_faces_that_are_right_as_they_are_reach_the_network_uncopied() -> None:
    network = Keeps()
    images = torch.rand(2, 3, 16, 16)
    Preprocessed(network, Preprocessing(color_order="RGB", mean=127.5, std=127.5, size_px=16))(images)
    assert network.given is images


def test_the_stages_of_the_network_keep_their_place() -> None:
    class Staged(Keeps):
        stage_names = ("first", "second")

    wanted = Preprocessing(color_order="RGB", mean=127.5, std=127.5, size_px=16)
    assert Preprocessed(Staged(), wanted).stage_names == ("network.first", "network.second")
    assert Preprocessed(Keeps(), wanted).stage_names == ()


def test_given_facts_go_before_known_ones() -> None:
    facts = Facts(std=128.0).over(Facts(std=127.5, mean=127.5))
    assert (facts.mean, facts.std, facts.size_px) == (127.5, 128.0, None)


@pytest.mark.parametrize(
    "wrong", [{"std": 0.0}, {"std": (1.0, 1.0, 0.0)}, {"size_px": 8}, {"color_order": "GBR"}, {"eps": 1e-5}]
)
def test_facts_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Facts.model_validate(wrong)
