"""Claims of the adapter: each term of its loss by hand, what training does, what is left untouched.

N: faces, B: batch, D: width of the teacher's embedding, K: width of the adapted one, C: classes
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from distill.errors import DivergenceError
from distill.losses.hinton_kl import hinton_kl
from distill.teachers.adapter import (
    Adapter,
    AdapterObjective,
    AdapterSettings,
    AnyAdapterSettings,
    NoAdapterSettings,
    adapted,
    centre_loss,
    pairwise,
    reprojection,
    sparsity,
    train_adapter,
)
from distill.teachers.base import Teacher

QUICK: dict[str, Any] = {"width": 64, "epochs": 8, "batch_size": 64, "lr": 1e-2}
CLASSES = 10


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clusters(
    faces_per_class: int = 40, *, dim: int = 16, noise: float = 1.0, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Embeddings around one centre a class, away from the origin, and their classes."""
    label_N = torch.arange(CLASSES).repeat_interleave(faces_per_class)
    centre_CD = random(CLASSES, dim, seed=0)
    return scale * (0.5 + centre_CD[label_N] + noise * random(len(label_N), dim, seed=1)), label_N


def quick(**settings: Any) -> AdapterSettings:
    return AdapterSettings(**(QUICK | settings))


def trained(**settings: Any) -> tuple[Adapter, dict[str, float]]:
    teacher_ND, label_N = clusters()
    return train_adapter(quick(**settings), teacher_ND, label_N, num_classes=CLASSES, seed=0)


def untrained(**settings: Any) -> AdapterObjective:
    """An objective whose first weights are a function of nothing but the settings."""
    teacher_ND, label_N = clusters()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return AdapterObjective(AdapterSettings(**settings), teacher_ND, label_N, num_classes=CLASSES)


def dot(left: Tensor, right: Tensor) -> float:
    return sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True))


def cosine(left: Tensor, right: Tensor) -> float:
    return dot(left, right) / math.sqrt(dot(left, left) * dot(right, right))


def softmax(logits: list[float]) -> list[float]:
    odds = [math.exp(logit) for logit in logits]
    return [odd / sum(odds) for odd in odds]


# The terms, by hand


def test_reprojection_is_a_mean_over_batch_and_dimensions() -> None:
    loss = reprojection(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    assert loss.item() == pytest.approx((0 + 4 + 9 + 1) / 4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_label_is_the_divergence_from_the_teacher(temperature: float) -> None:
    logits_BC, teacher_BC = random(3, 4, seed=0), 3 * random(3, 4, seed=1)
    expected = 0.0
    for own, teacher in zip(logits_BC.tolist(), teacher_BC.tolist(), strict=True):
        p = softmax([logit / temperature for logit in own])
        q = softmax([logit / temperature for logit in teacher])
        expected += temperature**2 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)) / 3
    assert hinton_kl(logits_BC, teacher_BC, temperature=temperature).item() == pytest.approx(
        expected, rel=1e-4
    )


def test_soft_label_of_a_coin_and_a_loaded_coin() -> None:
    fair, loaded = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    # KL of (3/4, 1/4) from (1/2, 1/2); the other way round it would be 0.1438.
    assert hinton_kl(fair, loaded, temperature=1.0).item() == pytest.approx(0.1308, abs=1e-4)


def test_pairwise_compares_every_pair_with_every_order() -> None:
    z_BK, teacher_BD = random(4, 3, seed=0), random(4, 5, seed=1)
    expected = 0.0
    for i in range(4):
        for j in range(4):
            expected += (cosine(z_BK[i], z_BK[j]) - cosine(teacher_BD[i], teacher_BD[j])) ** 2 / 16
    assert pairwise(z_BK, teacher_BD).item() == pytest.approx(expected, rel=1e-4)


def test_pairwise_is_blind_to_norms_and_turns() -> None:
    teacher_BD = random(4, 5, seed=0)
    turn_DD = torch.linalg.qr(random(5, 5, seed=1)).Q
    assert pairwise(3 * teacher_BD @ turn_DD, teacher_BD).item() == pytest.approx(0, abs=1e-10)


def test_pairwise_of_opposites_that_the_teacher_finds_alike() -> None:
    z_BK, teacher_BD = torch.tensor([[2.0], [-5.0]]), torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    assert pairwise(z_BK, teacher_BD).item() == pytest.approx((0 + 4 + 4 + 0) / 4)


def test_sparsity_is_the_mean_absolute_value() -> None:
    assert sparsity(torch.tensor([[1.0, -2.0], [0.0, -3.0]])).item() == pytest.approx(6 / 4)


def test_centre_loss_is_half_the_squared_distance() -> None:
    loss = centre_loss(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    assert loss.item() == pytest.approx((4 + 10) / 2 / 2)


# The objective: what each term is given


def test_cross_entropy_of_plain_logits() -> None:
    objective = untrained(width=64)
    z_BK, label_B = random(3, 64, seed=4), torch.tensor([0, 9, 5])
    weight_CK = objective.classifier.weight.detach()
    expected = 0.0
    for z_K, label in zip(z_BK, label_B.tolist(), strict=True):
        expected -= math.log(softmax([dot(z_K, weight_K) for weight_K in weight_CK])[label]) / 3
    terms = objective(z_BK, random(3, 16, seed=5), label_B)
    assert terms["cross_entropy"].item() == pytest.approx(expected, rel=1e-4)


def test_cross_entropy_of_scaled_cosines() -> None:
    objective = untrained(width=64, classifier="cosine", scale=8.0)
    z_BK, label_B = random(3, 64, seed=4), torch.tensor([0, 9, 5])
    weight_CK = objective.classifier.weight.detach()
    expected = 0.0
    for z_K, label in zip(z_BK, label_B.tolist(), strict=True):
        expected -= math.log(softmax([8 * cosine(z_K, weight_K) for weight_K in weight_CK])[label]) / 3
    terms = objective(z_BK, random(3, 16, seed=5), label_B)
    assert terms["cross_entropy"].item() == pytest.approx(expected, rel=1e-4)


def test_the_teachers_soft_labels_are_scaled_cosines_to_its_mean_directions() -> None:
    teacher_ND, label_N = clusters(faces_per_class=3)
    objective = AdapterObjective(AdapterSettings(scale=8.0), teacher_ND, label_N, num_classes=CLASSES + 1)
    for c in range(CLASSES):
        faces = [row / math.sqrt(dot(row, row)) for row in teacher_ND[label_N == c]]
        centre_D = torch.stack(faces).sum(0)
        for face in (0, 7):
            expected = 8 * cosine(teacher_ND[face], centre_D)
            assert objective.teacher_logits(teacher_ND)[face, c].item() == pytest.approx(expected, abs=1e-4)
    assert (objective.teacher_logits(teacher_ND)[:, CLASSES] == 0).all()


def test_reprojection_is_the_share_of_variance_that_was_not_restored() -> None:
    teacher_ND, label_N = clusters()
    objective = untrained(width=64)
    nn.init.zeros_(objective.restore.weight)
    terms = objective(random(len(teacher_ND), 64, seed=4), teacher_ND, label_N)
    assert terms["reprojection"].item() == pytest.approx(1.0, rel=1e-4)

    # Half a face's distance from the mean leaves a quarter of the variance.
    half_ND = torch.zeros(len(teacher_ND), 64)
    half_ND[:, :16] = (teacher_ND - teacher_ND.mean(0)) / 2
    spread = math.sqrt(sum(teacher_ND[:, d].var(correction=0).item() for d in range(16)) / 16)
    objective.restore.weight.data[:, :16] = torch.eye(16) / spread
    terms = objective(half_ND, teacher_ND, label_N)
    assert terms["reprojection"].item() == pytest.approx(0.25, rel=1e-4)


def test_faces_are_compared_with_the_centre_of_their_own_class() -> None:
    objective = untrained(width=64, compactness="centre", compactness_weight=0.1)
    objective.centre_CK.data = torch.arange(CLASSES)[:, None].expand(-1, 64).float()
    z_BK = torch.tensor([[4.0], [9.0]]).expand(-1, 64)
    terms = objective(z_BK, random(2, 16, seed=5), torch.tensor([4, 7]))
    assert terms["centre"].item() == pytest.approx((0 + 64 * 4) / 2 / 2)


def test_the_loss_is_the_weighted_sum_of_the_terms() -> None:
    objective = untrained(
        width=64, regression="pairwise", regression_weight=3.0, compactness="l1", compactness_weight=0.5
    )
    terms = objective(random(4, 64, seed=4), random(4, 16, seed=5), torch.tensor([0, 1, 2, 3]))
    assert set(terms) == {"cross_entropy", "pairwise", "l1"}
    expected = terms["cross_entropy"] + 3 * terms["pairwise"] + 0.5 * terms["l1"]
    assert objective.total(terms).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"cross_entropy", "reprojection"}),
        ({"regression": "none"}, {"cross_entropy"}),
        ({"regression_weight": 0.0}, {"cross_entropy"}),
        ({"compactness": "l1"}, {"cross_entropy", "reprojection"}),
        ({"compactness_weight": 1.0}, {"cross_entropy", "reprojection"}),
        (
            {"regression": "soft_label", "compactness": "centre", "compactness_weight": 0.1},
            {"cross_entropy", "soft_label", "centre"},
        ),
    ],
)
def test_terms_without_a_weight_are_left_out(settings: dict[str, Any], names: set[str]) -> None:
    _, terms = trained(**settings, epochs=1)
    assert terms.keys() == names
    assert all(value > 0 for value in terms.values())


# What training does


@pytest.mark.parametrize("name", ["linear", "mlp"])
@pytest.mark.parametrize("classifier", ["plain", "cosine"])
@pytest.mark.parametrize("regression", ["reprojection", "soft_label", "pairwise", "none"])
def test_training_lowers_every_term(name: str, classifier: str, regression: str) -> None:
    settings: dict[str, Any] = {"name": name, "classifier": classifier, "regression": regression}
    settings["regression_weight"] = 100.0 if regression == "pairwise" else 10.0
    _, first = trained(**settings, epochs=1, lr=1e-9)
    _, last = trained(**settings)
    for term in first:
        assert last[term] < 0.7 * first[term], term


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_training_draws_classes_apart(name: str) -> None:
    teacher_ND, label_N = clusters()
    adapter, _ = trained(name=name, regression="none")

    def margin(embedding_ND: Tensor) -> float:
        """By how much genuine pairs are more alike than impostors."""
        unit_ND = nn.functional.normalize(embedding_ND)
        cosine_NN, genuine_NN = unit_ND @ unit_ND.T, label_N[:, None] == label_N
        return (cosine_NN[genuine_NN].mean() - cosine_NN[~genuine_NN].mean()).item()

    centred_ND = teacher_ND - teacher_ND.mean(0)
    assert margin(adapter(teacher_ND)) > margin(centred_ND) + 0.05


def test_a_wide_adapter_loses_nothing() -> None:
    _, terms = trained(regression_weight=10.0, epochs=20)
    assert terms["reprojection"] < 0.02


def test_a_narrow_adapter_restores_about_what_principal_components_do() -> None:
    # No linear map to 64 of 96 dimensions keeps more variance than the first 64 principal components.
    teacher_ND, label_N = clusters(dim=96)
    teacher_ND = teacher_ND * torch.linspace(2.0, 0.1, 96)
    settings = quick(epochs=40, regression_weight=100.0, lr=3e-2)
    _, terms = train_adapter(settings, teacher_ND, label_N, num_classes=CLASSES, seed=0)
    variance_D = torch.linalg.eigvalsh(torch.cov(teacher_ND.T))
    lost = (variance_D[:32].sum() / variance_D.sum()).item()
    assert lost < terms["reprojection"] < 3 * lost


@pytest.mark.parametrize("regression", ["reprojection", "soft_label", "pairwise"])
def test_the_scale_of_a_teacher_changes_nothing(regression: str) -> None:
    settings = quick(regression=regression, epochs=2)
    terms = []
    for scale in (1.0, 20.0):
        teacher_ND, label_N = clusters(scale=scale)
        terms.append(train_adapter(settings, teacher_ND, label_N, num_classes=CLASSES, seed=0)[1])
    assert terms[0] == pytest.approx(terms[1], rel=0.02)


def test_l1_shrinks_the_embedding() -> None:
    teacher_ND, _ = clusters()
    plain, _ = trained()
    sparse, _ = trained(compactness="l1", compactness_weight=5.0)
    assert sparse(teacher_ND).abs().mean() < 0.8 * plain(teacher_ND).abs().mean()


def test_centre_loss_draws_a_class_together() -> None:
    teacher_ND, label_N = clusters()

    def spread(adapter: Adapter) -> float:
        """Mean squared distance of a face to the mean of its class."""
        z_NK = adapter(teacher_ND)
        within = [z_NK[label_N == c].var(0, correction=0).sum() for c in range(CLASSES)]
        return torch.stack(within).mean().item()

    plain, _ = trained()
    compact, _ = trained(compactness="centre", compactness_weight=0.1)
    assert spread(compact) < 0.8 * spread(plain)


@pytest.mark.parametrize(
    ("dtype", "batch_size"), [(torch.float16, 64), (torch.float64, 64), (torch.float32, 10_000)]
)
def test_caches_of_any_precision_and_batches_beyond_the_set_are_taken(
    dtype: torch.dtype, batch_size: int
) -> None:
    teacher_ND, label_N = clusters()
    settings = quick(batch_size=batch_size)
    adapter, terms = train_adapter(settings, teacher_ND.to(dtype), label_N, num_classes=CLASSES, seed=0)
    assert adapter(teacher_ND).shape == (len(teacher_ND), 64)
    assert terms["cross_entropy"] < math.log(CLASSES)


def test_every_face_of_full_batches_is_seen_once_a_pass() -> None:
    teacher_ND, label_N = clusters(faces_per_class=13)
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Adapter):
            seen.append(inputs[0])

    with register_module_forward_pre_hook(watch):
        train_adapter(quick(epochs=2), teacher_ND, label_N, num_classes=CLASSES, seed=0)
    assert [len(batch) for batch in seen] == [64, 64, 64, 64]
    for one_pass in (seen[:2], seen[2:]):
        assert len(torch.cat(one_pass).unique(dim=0)) == 128
    assert not torch.equal(seen[0], seen[2])


# What is repeatable and what is left untouched


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    teacher_ND, label_N = clusters()
    settings = quick(epochs=2)
    first, again, other = (
        train_adapter(settings, teacher_ND, label_N, num_classes=CLASSES, seed=seed) for seed in (5, 5, 6)
    )
    assert first[1] == again[1] != other[1]
    for name, tensor in first[0].state_dict().items():
        assert torch.equal(tensor, again[0].state_dict()[name])
    assert not torch.equal(first[0](teacher_ND), other[0](teacher_ND))


def test_the_callers_random_stream_stays_where_it_is() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    trained(epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_random_stream_of_the_caller_decides_nothing() -> None:
    torch.manual_seed(1)
    _, first = trained(epochs=1)
    torch.manual_seed(2)
    _, again = trained(epochs=1)
    assert first == again


def test_the_embeddings_and_labels_stay_as_they_are() -> None:
    teacher_ND, label_N = clusters()
    kept = teacher_ND.clone(), label_N.clone()
    teacher_ND.requires_grad_()
    train_adapter(quick(epochs=1), teacher_ND, label_N, num_classes=CLASSES, seed=0)
    assert teacher_ND.grad is None
    assert torch.equal(teacher_ND, kept[0])
    assert torch.equal(label_N, kept[1])


def test_the_trained_adapter_is_frozen() -> None:
    adapter, _ = trained(epochs=1)
    teacher_ND, _ = clusters()
    assert not any(parameter.requires_grad for parameter in adapter.parameters())
    assert not any(module.training for module in adapter.modules())
    assert not adapter(teacher_ND).requires_grad
    # In eval mode a face's embedding does not depend on its batch.
    torch.testing.assert_close(adapter(teacher_ND[:1]), adapter(teacher_ND)[:1])


# The layers


def test_a_linear_adapter_is_one_matrix_and_a_normalisation() -> None:
    adapter = Adapter("linear", teacher_dim=16, width=64)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 16 * 64 + 2 * 64


def test_an_mlp_adapter_has_a_hidden_layer() -> None:
    adapter = Adapter("mlp", teacher_dim=16, width=64)
    count = (16 * 64 + 2 * 64) + 64 + (64 * 64 + 2 * 64)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == count


@pytest.mark.parametrize("layers", ["linear", "mlp"])
def test_the_adapted_embedding_is_normalised_over_the_batch(layers: Any) -> None:
    z_BK = Adapter(layers, teacher_dim=16, width=64)(random(50, 16, seed=0))
    torch.testing.assert_close(z_BK.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(z_BK.var(0, correction=0), torch.ones(64), atol=1e-2, rtol=0)


# The adapted teacher


@pytest.fixture
def teacher() -> Teacher:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16))
    return Teacher(network, name="toy", embedding_dim=16, input_px=8, digest="ab" * 32, card={"sha256": "ab"})


def test_an_adapted_teacher_is_the_adapter_after_the_teacher(teacher: Teacher) -> None:
    adapter, _ = trained(epochs=1)
    whole = adapted(teacher, adapter)
    faces = random(5, 3, 12, 12, seed=0).clamp(-1, 1)
    assert (whole.embedding_dim, whole.input_px, whole.name) == (64, 8, "toy+adapter")
    torch.testing.assert_close(whole(faces), adapter(teacher(faces)))


def test_an_adapted_teacher_is_frozen(teacher: Teacher) -> None:
    whole = adapted(teacher, Adapter("linear", teacher_dim=16, width=64)).train()
    assert not any(module.training for module in whole.modules())
    assert not whole(torch.zeros(2, 3, 8, 8).requires_grad_()).requires_grad
    assert not any(parameter.requires_grad for parameter in whole.parameters())


def test_an_adapted_teacher_claims_nothing_that_its_teacher_was_measured_for(teacher: Teacher) -> None:
    whole = adapted(teacher, Adapter("linear", teacher_dim=16, width=64))
    assert whole.card["adapts"] == teacher.card
    assert whole.card["sha256"] == whole.digest
    assert "metrics" not in whole.card


def test_the_digest_names_the_teacher_and_the_adapter(teacher: Teacher) -> None:
    digests = {adapted(teacher, trained(epochs=epochs)[0]).digest for epochs in (1, 1, 2)}
    assert len(digests) == 2
    adapter, _ = trained(epochs=1)
    teacher.digest = "cd" * 32
    digests.add(adapted(teacher, adapter).digest)
    assert len(digests) == 3
    assert all(len(digest) == 64 for digest in digests)


# Settings and bad input


def test_settings_are_told_apart_by_name() -> None:
    read: TypeAdapter[NoAdapterSettings | AdapterSettings] = TypeAdapter(AnyAdapterSettings)
    assert read.validate_python({"name": "none"}) == NoAdapterSettings()
    assert read.validate_python({"name": "linear"}) == AdapterSettings()
    assert read.validate_python({"name": "mlp", "width": 64}) == AdapterSettings(name="mlp", width=64)
    with pytest.raises(ValidationError, match="name"):
        read.validate_python({"name": "conv"})


def test_the_papers_defaults() -> None:
    settings = AdapterSettings()
    assert (settings.width, settings.regression_weight, settings.compactness_weight) == (128, 1.0, 0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 100),
        ("scale", 0.0),
        ("temperature", 0.0),
        ("regression_weight", -1.0),
        ("compactness_weight", -1.0),
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", 0.0),
        ("regression", "hints"),
    ],
)
def test_refuses_settings_out_of_range(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        AdapterSettings.model_validate({field: value})


def _with(value: float) -> Callable[[Tensor], Tensor]:
    def put(teacher_ND: Tensor) -> Tensor:
        teacher_ND[3, 2] = value
        return teacher_ND

    return put


@pytest.mark.parametrize(
    ("spoil_teacher", "spoil_labels", "message"),
    [
        (None, lambda y: y + 1, r"label_N must be in \[0, num_classes = 10\), got 1 to 10"),
        (None, lambda y: y - 1, r"label_N must be in \[0, num_classes = 10\), got -1 to 8"),
        (None, lambda y: y * 0, "label_N must name at least 2 classes, got 1"),
        (lambda t: t[:0], lambda y: y[:0], "label_N must name at least 2 classes, got 0"),
        (None, lambda y: y[1:], r"label_N must have shape \(400,\), got \(399,\)"),
        (None, lambda y: y.float(), r"label_N must be of torch.int64, got torch.float32"),
        (lambda t: t[0], None, r"teacher_ND must have shape \(N, D\), got \(16,\)"),
        (_with(math.nan), None, "teacher_ND must be finite, got an entry that is not"),
        (_with(math.inf), None, "teacher_ND must be finite, got an entry that is not"),
        (torch.ones_like, None, "teacher_ND must hold different embeddings, got 400 equal ones"),
    ],
)
def test_refuses_a_set_that_teaches_nothing(
    spoil_teacher: Callable[[Tensor], Tensor] | None,
    spoil_labels: Callable[[Tensor], Tensor] | None,
    message: str,
) -> None:
    teacher_ND, label_N = clusters()
    teacher_ND = spoil_teacher(teacher_ND) if spoil_teacher else teacher_ND
    label_N = spoil_labels(label_N) if spoil_labels else label_N
    with pytest.raises(ValueError, match=f"^{message}$"):
        train_adapter(quick(), teacher_ND, label_N, num_classes=CLASSES, seed=0)


def test_a_loss_that_is_no_number_is_an_error() -> None:
    with pytest.raises(DivergenceError, match="the adapter's loss must stay finite, got"):
        trained(lr=1e30, epochs=3)
