"""A pretrained teacher loads whole, in whatever form it comes, and sees faces as it was trained to."""

import hashlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from distill.errors import TeacherError
from distill.maps import map_shapes
from distill.teachers import AnyTeacherSettings, EmbeddedTeacherSettings, EnsembleTeacherSettings
from distill.teachers.embedded import SHIPPED_WEIGHTS
from distill.teachers.pretrained import Facts, PretrainedTeacherSettings
from tests.distill.teachers.pretrained.files import (
    NETWORKS,
    SIZE_PX,
    adaface,
    faces,
    iresnet,
    mobilefacenet,
    save,
)

SMALL = Facts(size_px=SIZE_PX)
FACES = faces()


def pretrained(path: Path, **settings: Any) -> PretrainedTeacherSettings:
    return PretrainedTeacherSettings.model_validate({"weights": path, "facts": SMALL} | settings)


def embedded_by(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


def as_lightning(weights: dict[str, Tensor]) -> dict[str, Any]:
    """As Lightning 1.4 writes it: its callbacks are filed under their classes."""
    return {
        "epoch": 23,
        "pytorch-lightning_version": "1.4.4",
        "callbacks": {sys.modules["pytorch_lightning.callbacks.model_checkpoint"].ModelCheckpoint: {}},
        "state_dict": {f"model.{name}": tensor for name, tensor in weights.items()}
        | {"head.kernel": torch.zeros(20, 50), "head.t": torch.zeros(1)},
        "hyper_parameters": {"arch": "ir_18"},
    }


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "alone": lambda weights: weights,
    "of a parallel network": lambda weights: {f"module.{name}": t for name, t in weights.items()},
    "of arcface_torch's trainer": lambda weights: {
        "epoch": 3,
        "global_step": 100,
        "state_dict_backbone": weights,
        "state_dict_softmax_fc": {"weight": torch.zeros(50, 20)},
        "state_optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "of Lightning": as_lightning,
    "of Lightning, parallel": lambda weights: {
        "state_dict": {f"model.module.{name}": t for name, t in weights.items()}
    },
    "without counters of batches": lambda weights: {
        name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")
    },
}


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with the name of Lightning's, for the time of writing a checkpoint."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("lightning")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_checkpoint_gives_the_network_that_was_saved(
    tmp_path: Path, form: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = iresnet()
    path = tmp_path / "weights.pt"
    torch.save(FORMS[form](dict(network.state_dict())), path, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "pytorch_lightning.callbacks.model_checkpoint")
    teacher = pretrained(path).load()
    assert torch.equal(teacher(FACES), embedded_by(network, FACES))


@pytest.mark.parametrize("prefix", ["", "model.net."])
def test_safetensors_give_the_network_that_was_saved(tmp_path: Path, prefix: str) -> None:
    network = adaface()
    path = tmp_path / "model.safetensors"
    weights = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(weights, path)
    assert torch.equal(pretrained(path).load()(FACES), embedded_by(network, FACES.flip(1)))


@pytest.mark.parametrize("family", NETWORKS)
def test_a_family_is_known_by_its_names(tmp_path: Path, family: str) -> None:
    network = NETWORKS[family]()
    settings = pretrained(save(network, tmp_path / "weights.pth"))
    teacher = settings.load()
    assert teacher.card["family"] == family
    assert (teacher.embedding_dim, teacher.input_px) == (20, SIZE_PX)
    images = FACES.flip(1) if family == "adaface" else FACES
    assert torch.equal(teacher(FACES), embedded_by(network, images))
    named = pretrained(settings.weights, family=family).load()
    assert torch.equal(named(FACES), teacher(FACES))
    assert named.digest == teacher.digest


def test_a_mobilefacenet_may_scale_its_embedding(tmp_path: Path) -> None:
    network = mobilefacenet(affine=True)
    assert "output_layer.bn.weight" in network.state_dict()
    teacher = pretrained(save(network, tmp_path / "weights.pth")).load()
    assert torch.equal(teacher(FACES), embedded_by(network, FACES))


def test_a_published_depth_is_counted(tmp_path: Path) -> None:
    network = iresnet(
        blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), embedding_dim=512, size_px=112, dropout=0.0
    )
    settings = PretrainedTeacherSettings(weights=save(network.half(), tmp_path / "backbone.pth"))
    assert (settings.embedding_dim, settings.input_px) == (512, 112)
    teacher = settings.load()
    assert teacher.card["parameters"] == 24_025_600
    assert teacher.card["facts"] == {
        "color_order": "RGB",
        "mean": 127.5,
        "std": 127.5,
        "size_px": 112,
        "embedding_dim": 512,
        "bn_eps": 1e-5,
    }
    images = faces(1, size_px=112)
    assert torch.equal(teacher(images), embedded_by(network.float(), images))


def test_a_port_from_mxnet_differs_in_scale_and_eps(tmp_path: Path) -> None:
    network = iresnet()
    path = save(network, tmp_path / "weights.pth")
    ported = pretrained(path, family="iresnet_mxnet").load().double()
    # BN divides by the root of variance + eps: 1e-5 more of the one is 1e-5 more of the other.
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.data = buffer.double() + 1e-5
    pixels = (FACES.double() + 1) * 127.5
    expected = embedded_by(network.double(), (pixels - 127.5) / 128)
    torch.testing.assert_close(ported(FACES.double()), expected, rtol=1e-9, atol=1e-9)
    plain = pretrained(path, family="iresnet").load().double()
    assert (plain(FACES.double()) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("sign", ["a trained gain", "counters at zero"])
def test_an_iresnet_that_arcface_torch_did_not_train_must_be_named(tmp_path: Path, sign: str) -> None:
    network = iresnet()
    if sign == "a trained gain":
        network.features.weight.data[3] = 1.5
    for name, buffer in network.named_buffers():
        if sign == "counters at zero" and name.endswith("num_batches_tracked"):
            buffer.zero_()
    path = save(network, tmp_path / "weights.pth")
    with pytest.raises(TeacherError, match=r"teacher\.family must be iresnet or iresnet_mxnet for .*weights"):
        pretrained(path).load()
    for family in ("iresnet", "iresnet_mxnet"):
        assert pretrained(path, family=family).load().card["family"] == family


def test_given_facts_go_before_the_familys(tmp_path: Path) -> None:
    network = iresnet()
    path = save(network, tmp_path / "weights.pth")
    facts = Facts(size_px=SIZE_PX, color_order="BGR", mean=0.0, std=255.0, bn_eps=1e-3)
    teacher = pretrained(path, facts=facts).load()
    assert teacher.card["facts"]["bn_eps"] == 1e-3
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer += 1e-3 - 1e-5
    expected = embedded_by(network, (FACES.flip(1) + 1) / 2)
    torch.testing.assert_close(teacher(FACES), expected, rtol=1e-4, atol=1e-4)


def test_the_shipped_teacher_loads_as_a_stranger_would(tmp_path: Path) -> None:
    own = EmbeddedTeacherSettings().load()
    stranger = PretrainedTeacherSettings(weights=SHIPPED_WEIGHTS, facts=Facts(size_px=32)).load()
    images = faces(size_px=32)
    assert torch.equal(stranger(images), own(images))
    assert stranger.card["sha256"] == own.digest


def test_faces_of_another_size_reach_it_resized(tmp_path: Path) -> None:
    teacher = pretrained(save(iresnet(), tmp_path / "weights.pth")).load()
    assert teacher(faces(2, size_px=40)).shape == (2, 20)


def test_it_is_frozen(tmp_path: Path) -> None:
    teacher = pretrained(save(iresnet(), tmp_path / "weights.pth")).load().train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_its_stages_can_be_imitated(tmp_path: Path) -> None:
    for name, network in NETWORKS.items():
        teacher = pretrained(save(network(), tmp_path / f"{name}.pth")).load()
        expected = map_shapes(network(), size_px=SIZE_PX)
        assert map_shapes(teacher.stages, size_px=teacher.input_px) == expected, name


def test_loading_leaves_the_random_stream_where_it_is(tmp_path: Path) -> None:
    path = save(iresnet(), tmp_path / "weights.pth")
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    pretrained(path).load()
    assert torch.equal(torch.rand(1), expected)


def test_the_card_says_where_it_comes_from(tmp_path: Path) -> None:
    path = save(iresnet(), tmp_path / "backbone.pth")
    teacher = pretrained(path).load()
    content = path.read_bytes()
    assert teacher.name == "backbone"
    assert teacher.card["sha256"] == hashlib.sha256(content).hexdigest()
    assert (teacher.card["weights"], teacher.card["bytes"]) == (str(path), len(content))


def test_other_facts_make_another_teacher(tmp_path: Path) -> None:
    path = save(iresnet(), tmp_path / "weights.pth")
    choices = [
        pretrained(path),
        pretrained(path, facts=Facts(size_px=SIZE_PX, std=127.5)),
        pretrained(path, facts=Facts(size_px=SIZE_PX, std=128.0)),
        pretrained(path, family="iresnet_mxnet"),
    ]
    first, same, rescaled, ported = (settings.load().digest for settings in choices)
    assert first == same
    assert len({first, rescaled, ported}) == 3


def test_the_named_file_loads_and_no_other(tmp_path: Path) -> None:
    path = save(iresnet(), tmp_path / "weights.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert pretrained(path, sha256=digest).load().card["sha256"] == digest
    with pytest.raises(TeacherError, match=rf"teacher\.sha256: .*weights.pth has {digest}, expected 0{{64}}"):
        pretrained(path, sha256="0" * 64).load()


def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    path = save(iresnet(), tmp_path / "weights.pth")
    settings = pretrained(path)
    assert settings.embedding_dim == 20
    save(iresnet(embedding_dim=24), path)
    assert settings.embedding_dim == 24


def test_a_trial_and_an_ensemble_choose_it_by_its_name(tmp_path: Path) -> None:
    path = save(iresnet(), tmp_path / "weights.pth")
    written = {"name": "pretrained", "weights": str(path), "facts": {"size_px": SIZE_PX}}
    adapter = TypeAdapter(AnyTeacherSettings)
    assert adapter.validate_python(written) == pretrained(path)
    ensemble = adapter.validate_python({"name": "ensemble", "members": [{"name": "embedded"}, written]})
    assert isinstance(ensemble, EnsembleTeacherSettings)
    assert (ensemble.embedding_dim, ensemble.input_px) == (148, 32)


@pytest.mark.parametrize(
    "settings",
    [{"family": "factory"}, {"factory": "a:b"}, {"factory": "a:b", "family": "iresnet"}],
)
def test_a_factory_is_asked_for_or_not_at_all(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="factory must be given for family factory and for no other"):
        PretrainedTeacherSettings.model_validate({"weights": "a.pth"} | settings)


def test_an_accuracy_without_pairs_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be given together"):
        PretrainedTeacherSettings.model_validate({"weights": "a.pth", "verification_at_least": 0.9})
