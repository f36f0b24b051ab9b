"""Teachers that come as a graph or from a function of the user's, and the facts that must be given then."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from distill.errors import TeacherError
from distill.teachers.pretrained import Facts, PretrainedTeacherSettings
from tests.distill.teachers.pretrained.files import SIZE_PX, faces, save

FACES = faces()
PIXELS = (FACES + 1) * 127.5
WEIGHT = np.random.default_rng(0).normal(size=(3 * SIZE_PX**2, 20)).astype(np.float32)
TOLD = Facts(color_order="RGB", mean=127.5, std=127.5, size_px=SIZE_PX, embedding_dim=20)


def onnx_file(
    path: Path, *arithmetic: tuple[str, float], size: int | str = SIZE_PX, width: int | str = 20
) -> Path:
    """A graph that flattens a face, after some arithmetic, and multiplies it with `WEIGHT`."""
    nodes, last = [], "faces"
    stored = [numpy_helper.from_array(WEIGHT, "weight")]
    for number, (operation, value) in enumerate(arithmetic):
        stored.append(numpy_helper.from_array(np.array(value, dtype=np.float32), f"value{number}"))
        nodes.append(helper.make_node(operation, [last, f"value{number}"], [f"scaled{number}"]))
        last = f"scaled{number}"
    nodes += [
        helper.make_node("Flatten", [last], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["B", 3, size, size])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", width])],
        stored,
    )
    # MXNet and older exporters list stored tensors among the inputs.
    graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, WEIGHT.shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def by_hand(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1) @ torch.from_numpy(WEIGHT)


def test_an_onnx_graph_tells_its_sizes(tmp_path: Path) -> None:
    settings = PretrainedTeacherSettings(weights=onnx_file(tmp_path / "r.onnx"))
    assert (settings.embedding_dim, settings.input_px) == (20, SIZE_PX)
    teacher = settings.load()
    assert teacher.card["family"] == "onnx"
    assert teacher.card["facts"] == TOLD.model_dump(exclude_none=True)
    torch.testing.assert_close(teacher(FACES), by_hand(FACES), rtol=1e-4, atol=1e-4)


def test_it_is_known_without_its_ending(tmp_path: Path) -> None:
    settings = PretrainedTeacherSettings(weights=onnx_file(tmp_path / "recogniser"))
    assert settings.load().card["family"] == "onnx"


def test_a_graph_that_begins_as_mxnets_do_is_given_pixels_as_they_are(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "r.onnx", ("Sub", 127.5), ("Mul", 1 / 128))
    expected = by_hand((PIXELS - 127.5) / 128)
    teacher = PretrainedTeacherSettings(weights=path).load()
    assert (teacher.card["facts"]["mean"], teacher.card["facts"]["std"]) == (0.0, 1.0)
    torch.testing.assert_close(teacher(FACES), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "arithmetic",
    [[("Div", 255.0), ("Sub", 0.5)], [("Mul", 2.0)], [("Sub", 127.5)], [("Sub", 0.5), ("Mul", 2.0)]],
)
def test_a_graph_that_begins_with_other_arithmetic_is_asked_about(
    tmp_path: Path, arithmetic: list[tuple[str, float]]
) -> None:
    path = onnx_file(tmp_path / "r.onnx", *arithmetic)
    with pytest.raises(TeacherError, match=r"teacher\.facts must give mean, std for .*r\.onnx"):
        PretrainedTeacherSettings(weights=path).load()
    told = PretrainedTeacherSettings(weights=path, facts=Facts(mean=0.0, std=1.0)).load()
    expected = PIXELS
    for operation, value in arithmetic:
        expected = {"Div": expected / value, "Sub": expected - value, "Mul": expected * value}[operation]
    torch.testing.assert_close(told(FACES), by_hand(expected), rtol=1e-4, atol=1e-2)


def test_given_facts_go_before_the_usual_ones(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "r.onnx")
    teacher = PretrainedTeacherSettings(weights=path, facts=Facts(color_order="BGR", std=128.0)).load()
    expected = by_hand((PIXELS.flip(1) - 127.5) / 128)
    torch.testing.assert_close(teacher(FACES), expected, rtol=1e-4, atol=1e-4)


def test_a_graph_that_tells_no_sizes_is_asked_about(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "r.onnx", size="H", width="D")
    with pytest.raises(TeacherError, match=r"teacher\.facts must give size_px, embedding_dim for"):
        _ = PretrainedTeacherSettings(weights=path).embedding_dim
    facts = Facts(size_px=SIZE_PX, embedding_dim=20)
    teacher = PretrainedTeacherSettings(weights=path, facts=facts).load()
    torch.testing.assert_close(teacher(FACES), by_hand(FACES), rtol=1e-4, atol=1e-4)
    wrong = PretrainedTeacherSettings(weights=path, facts=Facts(size_px=SIZE_PX, embedding_dim=21))
    with pytest.raises(TeacherError, match=r"must embed 2 faces as \(2, 21\), gave \(2, 20\)"):
        wrong.load()
    wrong = PretrainedTeacherSettings(weights=path, facts=Facts(size_px=32, embedding_dim=20))
    with pytest.raises(TeacherError, match=r"cannot embed faces of 32 px"):
        wrong.load()


@pytest.mark.parametrize("shape", [[8, 3, SIZE_PX, SIZE_PX], ["B", SIZE_PX, SIZE_PX, 3]])
def test_the_size_of_faces_is_found_in_any_layout(tmp_path: Path, shape: list[int | str]) -> None:
    model = onnx.load(onnx_file(tmp_path / "r.onnx"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("faces", TensorProto.FLOAT, shape))
    onnx.save(model, tmp_path / "other.onnx")
    assert PretrainedTeacherSettings(weights=tmp_path / "other.onnx").input_px == SIZE_PX


def test_a_graph_of_bytes_is_given_pixels_as_they_are(tmp_path: Path) -> None:
    model = onnx.load(onnx_file(tmp_path / "r.onnx", ("Sub", 1.0)))
    bytes_first = helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["B", 3, SIZE_PX, SIZE_PX])
    model.graph.input[0].CopyFrom(bytes_first)
    model.graph.node.insert(0, helper.make_node("Cast", ["bytes"], ["faces"], to=TensorProto.FLOAT))
    onnx.save(model, tmp_path / "bytes.onnx")
    teacher = PretrainedTeacherSettings(weights=tmp_path / "bytes.onnx").load()
    torch.testing.assert_close(teacher(FACES), by_hand(PIXELS.round() - 1), rtol=1e-4, atol=1e-1)


def test_a_graph_whose_weights_are_elsewhere_is_refused(tmp_path: Path) -> None:
    model = onnx.load(onnx_file(tmp_path / "r.onnx"))
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location="w", size_threshold=0)
    with pytest.raises(TeacherError, match=r"split\.onnx must hold all of its weights"):
        PretrainedTeacherSettings(weights=tmp_path / "split.onnx").load()


def test_a_size_that_contradicts_the_graph_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "r.onnx")
    with pytest.raises(TeacherError, match=rf"teacher\.facts\.size_px must be {SIZE_PX} for .*got 112"):
        PretrainedTeacherSettings(weights=path, facts=Facts(size_px=112)).load()


def test_an_eps_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "r.onnx")
    with pytest.raises(TeacherError, match=r"teacher\.facts\.bn_eps must not be given for family onnx"):
        PretrainedTeacherSettings(weights=path, facts=Facts(bn_eps=1e-5)).load()


def test_a_graph_is_of_no_other_family(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "r.onnx")
    with pytest.raises(TeacherError, match="looks like an ONNX graph, which is not iresnet"):
        PretrainedTeacherSettings(weights=path, family="iresnet").load()
    with pytest.raises(TeacherError, match="looks like an ONNX graph, which needs no factory"):
        PretrainedTeacherSettings(weights=path, family="factory", factory="a:b").load()


def test_an_exported_network_must_be_told_of_its_pixels(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE_PX**2, 20)).eval()
    path = tmp_path / "network.pt2"
    torch.export.save(torch.export.export(network, (FACES[:1],)), path)
    with pytest.raises(
        TeacherError, match=r"teacher\.facts must give color_order, mean, std for .*network\.pt2"
    ):
        PretrainedTeacherSettings(weights=path).load()
    facts = Facts(color_order="BGR", mean=127.5, std=127.5)
    settings = PretrainedTeacherSettings(weights=path, facts=facts)
    assert (settings.embedding_dim, settings.input_px) == (20, SIZE_PX)
    teacher = settings.load()
    assert teacher.card["family"] == "exported"
    with torch.no_grad():
        torch.testing.assert_close(teacher(FACES), network(FACES.flip(1)), rtol=1e-5, atol=1e-5)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of the user's on Python's path."""
    (tmp_path / "my_networks").mkdir()
    (tmp_path / "my_networks" / "__init__.py").write_text("")
    (tmp_path / "my_networks" / "face.py").write_text(
        textwrap.dedent("""
        import torch
        from torch import nn

        SIZE = 3 * 16 * 16

        def network():
            return nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 20), nn.BatchNorm1d(20))

        class Nested(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(SIZE, 20)
                self.inner = nn.ModuleDict({"fc": nn.Linear(20, 20)})

            def forward(self, images):
                return self.inner["fc"](self.fc(images.flatten(1)))

        class Pair(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(SIZE, 20)

            def forward(self, images):
                embedding = self.fc(images.flatten(1))
                return embedding, embedding.norm(dim=1)

        def no_network():
            return 5

        def broken():
            raise RuntimeError("no CUDA here")
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "my_networks.face"


def from_factory(path: Path, factory: str, **changes: Any) -> PretrainedTeacherSettings:
    settings = {"weights": path, "family": "factory", "factory": factory, "facts": TOLD}
    return PretrainedTeacherSettings.model_validate(settings | changes)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_function_of_the_users_makes_the_network(tmp_path: Path, package: str, prefix: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE_PX**2, 20), nn.BatchNorm1d(20)).eval()
    weights = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    path = save(weights, tmp_path / "weights.pth")
    settings = from_factory(path, f"{package}:network")
    assert (settings.embedding_dim, settings.input_px) == (20, SIZE_PX)
    teacher = settings.load()
    with torch.no_grad():
        assert torch.equal(teacher(FACES), network(FACES))
    assert teacher.card["factory"] == f"{package}:network"


@pytest.mark.parametrize("prefix", ["", "model."])
def test_layers_of_one_name_are_not_taken_for_two_networks(tmp_path: Path, package: str, prefix: str) -> None:
    weights = {
        "fc.weight": torch.ones(20, 768),
        "fc.bias": torch.zeros(20),
        "inner.fc.weight": torch.eye(20),
        "inner.fc.bias": torch.arange(20.0),
    }
    path = save({f"{prefix}{name}": tensor for name, tensor in weights.items()}, tmp_path / "weights.pth")
    embedding = from_factory(path, f"{package}:Nested").load()(FACES)
    expected = FACES.sum((1, 2, 3))[:, None] + torch.arange(20.0)
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-3)


def test_a_factory_must_be_told_all_about_its_network(tmp_path: Path, package: str) -> None:
    path = save({"1.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    expected = r"teacher\.facts must give color_order, mean, std, size_px, embedding_dim for"
    with pytest.raises(TeacherError, match=expected):
        from_factory(path, f"{package}:network", facts=Facts()).load()


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("my_networks.face:no_network", "must return a torch.nn.Module, got int"),
        ("my_networks.face:broken", "fails .*no CUDA here"),
        ("my_networks.face:nobody", "fails .*nobody"),
        ("my_networks.nowhere:network", "fails .*ModuleNotFoundError"),
    ],
)
def test_a_factory_that_fails_is_told(tmp_path: Path, package: str, factory: str, told: str) -> None:
    path = save({"1.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    assert factory.startswith("my_networks")
    with pytest.raises(TeacherError, match=rf"teacher\.factory: {factory} {told}"):
        from_factory(path, factory).load()


def test_a_factorys_network_is_filled_strictly(tmp_path: Path, package: str) -> None:
    weights = {"1.weight": torch.zeros(20, 768), "1.bias": torch.zeros(20), "head": torch.zeros(2)}
    path = save(weights, tmp_path / "weights.pth")
    with pytest.raises(TeacherError, match=r"lacks 2\.bias, 2\.running_mean, .* and has head too many"):
        from_factory(path, f"{package}:network").load()


def test_a_factorys_network_must_embed_faces(tmp_path: Path, package: str) -> None:
    path = save({"fc.weight": torch.zeros(20, 768), "fc.bias": torch.zeros(20)}, tmp_path / "weights.pth")
    with pytest.raises(TeacherError, match=r"must embed 2 faces as \(2, 20\), gave tuple"):
        from_factory(path, f"{package}:Pair").load()


def test_a_factory_is_imported_only_when_it_is_asked_for(tmp_path: Path) -> None:
    path = save({"1.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    assert from_factory(path, "nowhere_at_all:network").embedding_dim == 20
