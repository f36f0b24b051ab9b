"""What every margin must do. A member of `AnyMarginSettings` is tested here for free."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from distill.losses.margins import AnyMarginSettings, Margin, MarginSettings

SETTINGS: dict[str, type[MarginSettings]] = {
    settings.model_fields["name"].default: settings for settings in get_args(get_args(AnyMarginSettings)[0])
}

LABELS = torch.tensor([2, 0, 1, 1])
NORMS = torch.tensor([8.0, 15.0, 22.0, 60.0])


@pytest.fixture(params=SETTINGS)
def margin(request: pytest.FixtureRequest) -> Margin:
    return SETTINGS[request.param]().build()


def cosines() -> Tensor:
    """Every face is nearest its own class, by more than any margin: no other class scores above it."""
    return torch.tensor([[-0.4, -0.5, 0.9], [0.7, -0.6, -0.3], [-0.5, 0.8, -0.5], [-0.9, 0.6, -0.4]])


def test_every_margin_has_its_name() -> None:
    assert set(SETTINGS) == {
        "arcface",
        "cosface",
        "elastic_arc",
        "elastic_arc_plus",
        "elastic_cos",
        "elastic_cos_plus",
        "adaface",
        "magface",
        "curricularface",
    }


def test_settings_are_told_apart_by_name() -> None:
    adapter: TypeAdapter[MarginSettings] = TypeAdapter(AnyMarginSettings)
    for name, settings in SETTINGS.items():
        assert type(adapter.validate_python({"name": name})) is settings
    with pytest.raises(ValidationError, match="adaface"):
        adapter.validate_python({"name": "no_such_margin"})


@pytest.mark.parametrize("name", SETTINGS)
def test_refuses_a_scale_of_zero(name: str) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        SETTINGS[name].model_validate({"scale": 0})


@pytest.mark.parametrize("training", [True, False])
def test_lowers_the_target_and_leaves_easy_classes_alone(margin: Margin, training: bool) -> None:
    plain = 64 * cosines()
    logits = margin.train(training)(cosines(), LABELS, norm_B=NORMS)
    is_target = torch.nn.functional.one_hot(LABELS, 3).bool()
    assert (logits[is_target] < plain[is_target] - 1).all()
    assert torch.equal(logits[~is_target], plain[~is_target])


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_grow_with_the_scale(name: str) -> None:
    logits, halved = (
        SETTINGS[name].model_validate({"scale": scale}).build()(cosines(), LABELS, norm_B=NORMS)
        for scale in (64, 32)
    )
    torch.testing.assert_close(logits, 2 * halved)


def test_leaves_the_cosines_it_was_given_alone(margin: Margin) -> None:
    given = cosines()
    margin(given, LABELS, norm_B=NORMS)
    assert torch.equal(given, cosines())


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_finite_at_both_ends(margin: Margin, training: bool) -> None:
    cosine = torch.tensor([[1.0, -1.0, 0.0], [1.0, -1.0, 1.0]], requires_grad=True)
    norm = torch.tensor([1e-4, 300.0], requires_grad=True)
    logits = margin.train(training)(cosine, torch.tensor([0, 1]), norm_B=norm)
    (torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])) + margin.regularizer(norm)).backward()
    assert logits.isfinite().all()
    assert cosine.grad is not None
    assert cosine.grad.isfinite().all()
    assert norm.grad is None or norm.grad.isfinite().all()


def test_a_batch_may_be_one_face(margin: Margin) -> None:
    logits = margin(cosines()[:1], LABELS[:1], norm_B=NORMS[:1])
    assert logits.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in margin.buffers())


def test_evaluation_changes_no_statistic(margin: Margin) -> None:
    margin(cosines(), LABELS, norm_B=NORMS)
    before = {name: value.clone() for name, value in margin.state_dict().items()}
    margin.eval()(cosines(), LABELS, norm_B=NORMS)
    assert all(torch.equal(value, before[name]) for name, value in margin.state_dict().items())


def test_continues_exactly_from_its_state(margin: Margin) -> None:
    for _ in range(3):
        margin(cosines(), LABELS, norm_B=NORMS)
    state = {name: value.clone() for name, value in margin.state_dict().items()}
    expected = margin(cosines(), LABELS, norm_B=NORMS)
    for value in margin.buffers():
        value.zero_()
    margin.load_state_dict(state)
    assert torch.equal(margin(cosines(), LABELS, norm_B=NORMS), expected)


def test_only_magface_asks_more_than_cross_entropy(margin: Margin) -> None:
    penalty = margin.regularizer(NORMS)
    assert penalty.shape == ()
    assert (penalty > 0) == (type(margin).__name__ == "MagFace")
