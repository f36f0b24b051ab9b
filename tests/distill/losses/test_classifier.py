"""The margin classifier by hand."""

import math

import pytest
import torch
from torch import Tensor

from distill.losses.classifier import MarginClassifier
from distill.losses.margins import (
    AdaFaceSettings,
    ArcFaceSettings,
    CosFaceSettings,
    MagFaceSettings,
    Margin,
)


def classifier(margin: Margin, centres: list[list[float]]) -> MarginClassifier:
    module = MarginClassifier(len(centres[0]), len(centres), margin)
    module.load_state_dict({"centre_CD": torch.tensor(centres)}, strict=False)
    return module


def test_loss_and_logits_by_hand() -> None:
    module = classifier(CosFaceSettings(scale=10).build(), [[1, 0], [0, 2]])
    loss, logits = module(torch.tensor([[3.0, 4.0], [0.0, 5.0]]), torch.tensor([0, 1]))
    # Cosines are (0.6, 0.8) and (0, 1); with margins logits are (2.5, 8) and (0, 6.5).
    expected = (math.log(1 + math.exp(8 - 2.5)) + math.log(1 + math.exp(0 - 6.5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(logits, torch.tensor([[6.0, 8.0], [0.0, 10.0]]))


def test_magface_adds_its_regulariser() -> None:
    module = classifier(MagFaceSettings(l_a=1, u_a=10, lambda_g=2).build(), [[1, 0], [0, 1]])
    embedding, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([0])
    loss, _ = module(embedding, labels)
    module.margin = MagFaceSettings(l_a=1, u_a=10, lambda_g=0).build()
    without, _ = module(embedding, labels)
    # The norm is 5: 2 (5 / 100 + 1 / 5).
    assert (loss - without).item() == pytest.approx(0.5, rel=1e-4)


def test_adaface_sees_the_norms_of_raw_embeddings() -> None:
    margin = AdaFaceSettings(t_alpha=1.0).build()
    module = classifier(margin, [[1, 0], [0, 1]])
    module(torch.tensor([[3.0, 4.0], [0.0, 13.0], [9.0, 0.0]]), torch.tensor([0, 1, 0]))
    assert margin.norm_mean.item() == pytest.approx(9)
    assert margin.norm_std.item() == pytest.approx(4)


def test_with_adaface_the_length_of_an_embedding_matters() -> None:
    module = classifier(AdaFaceSettings(scale=4).build(), [[1, 0], [0, 1]]).eval()
    short, long = (module(torch.tensor([[3.0, 4.0]]) * factor, torch.tensor([0]))[0] for factor in (1, 15))
    # Norms 5 and 75 against mean 20 and deviation 100.
    k_short, k_long = (0.333 * (norm - 20) / 100.001 for norm in (5, 75))
    for loss, k in ((short, k_short), (long, k_long)):
        target = math.cos(math.acos(0.6) - 0.4 * k) - 0.4 - 0.4 * k
        assert loss.item() == pytest.approx(math.log(1 + math.exp(4 * (0.8 - target))), rel=1e-4)


@pytest.mark.parametrize("settings", [ArcFaceSettings(), CosFaceSettings()])
def test_with_the_others_it_does_not(settings: ArcFaceSettings | CosFaceSettings) -> None:
    module = MarginClassifier(8, 3, settings.build())
    embedding = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    torch.testing.assert_close(module(9 * embedding, labels), module(embedding, labels))


def test_logits_never_exceed_the_scale() -> None:
    embedding = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    module = classifier(ArcFaceSettings().build(), embedding.tolist())
    loss, logits = module(embedding, torch.arange(200))
    assert logits.abs().max() <= 64
    assert loss.isfinite()


def test_gradients_reach_embeddings_and_centres() -> None:
    module = MarginClassifier(8, 3, ArcFaceSettings().build())
    embedding = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    module(embedding, torch.tensor([0, 1, 2, 0, 1, 2]))[0].backward()
    for gradient in (embedding.grad, module.centre_CD.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert (gradient != 0).any(dim=1).all()


@pytest.mark.parametrize("margin", [ArcFaceSettings().build(), MagFaceSettings().build()])
def test_gradients_are_finite_at_centres_at_their_opposites_and_at_zero(margin: Margin) -> None:
    module = classifier(margin, [[1, 0], [0, 1]])
    embedding = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 0.0]], requires_grad=True)
    module(embedding, torch.tensor([0, 0, 0]))[0].backward()
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()


def test_learns_to_tell_classes_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    embedding = torch.eye(4)[labels] + 0.1 * torch.randn(30, 4, generator=rng)
    torch.manual_seed(0)
    module = MarginClassifier(4, 3, ArcFaceSettings(scale=16).build())
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    losses: list[float] = []
    for _ in range(100):
        loss, _ = module(embedding, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    _, logits = module(embedding, labels)
    assert losses[-1] < 0.5 * losses[0]
    assert (logits.argmax(1) == labels).all()


def test_centres_start_short_and_follow_the_seed() -> None:
    def centres(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return MarginClassifier(64, 100, ArcFaceSettings().build()).centre_CD.detach()

    assert centres(0).shape == (100, 64)
    assert centres(0).std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(centres(0), centres(0))
    assert not torch.equal(centres(0), centres(1))


def test_refuses_a_single_class() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        MarginClassifier(8, 1, ArcFaceSettings().build())
