"""Files of graph and weights as networks: what they compute, and that strangers' files only compute."""

import copy
import io
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from distill.errors import InputError
from distill.evaluation import measured_efficiency, static_efficiency
from distill.runtimes import OnnxNetwork, load_exported

PX, DIM = 8, 5
WEIGHT = np.random.default_rng(0).standard_normal((3, DIM)).astype(np.float32)


def faces(batch: int) -> Tensor:
    return torch.rand(batch, 3, PX, PX, generator=torch.Generator().manual_seed(0)) * 2 - 1


def by_hand(images: Tensor) -> Tensor:
    """The mean colour of a face, through `WEIGHT`."""
    return images.mean(dim=(2, 3)) @ torch.from_numpy(WEIGHT)


def onnx_model(
    *,
    shape: tuple[int | str, ...] = ("batch", 3, PX, PX),
    elem_type: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("embeddings",),
    axes: tuple[int, int] = (2, 3),
) -> onnx.ModelProto:
    """Mean colour times `WEIGHT`; `pooled`, of rank 4, and `twin` may be outputs beside it."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["embeddings"]),
        helper.make_node("Identity", ["embeddings"], ["twin"]),
        helper.make_node("Identity", ["floats"], ["pooled"]),
    ]
    rank = {"embeddings": ["batch", DIM], "twin": ["batch", DIM], "pooled": ["batch", 3, PX, PX]}
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info("images", elem_type, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, rank[name]) for name in outputs],
        [numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(np.array(axes), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"color": "RGB"})
    return model


def onnx_file(folder: Path, **options: Any) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx_model(**options), path)
    return path


def onnx_of_shape(*shape: int | str) -> bytes:
    """A model that takes floats of any shape and gives embeddings."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("ReduceMean", ["flat", "axes"], ["mean"]),
            helper.make_node("MatMul", ["mean", "weight"], ["embeddings"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, [None, DIM])],
        [numpy_helper.from_array(WEIGHT[:1], "weight"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    ).SerializeToString()


class Small(nn.Module):
    """A bit of everything that recognisers are made of, and sizes that are calculated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding="same")
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(2 * PX * PX, DIM)
        self.register_buffer("shift", torch.randn(DIM))

    def forward(self, images: Tensor) -> Tensor:
        left, right = self.relu(self.bn(self.conv(images.contiguous()))).chunk(2, dim=1)
        mixed = torch.cat([left * 2, right], dim=0)[: images.shape[0] * 1]
        return self.fc(mixed.reshape(images.shape[0], -1)) + self.shift


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def archive(small: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` as torch.export saves it, for any number of faces."""
    return exported(small, tmp_path_factory.mktemp("pt2") / "small.pt2")


def exported(network: nn.Module, path: Path, *, batch: int = 2, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(network, (faces(batch),), dynamic_shapes=shapes), path)
    return path


def changed(
    archive: Path, folder: Path, member: str, change: Callable[[bytes], bytes], **options: Any
) -> Path:
    """The archive with one member rewritten, or added."""
    path = folder / archive.name
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w", **options) as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            if name != f"{root}/{member}":
                new.writestr(name, old.read(name))
        before = old.read(f"{root}/{member}") if f"{root}/{member}" in old.namelist() else b""
        new.writestr(f"{root}/{member}", change(before))
    return path


def with_graph(archive: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    def rewritten(before: bytes) -> bytes:
        program = json.loads(before)
        change(program)
        return json.dumps(program).encode()

    return changed(archive, folder, "models/model.json", rewritten)


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_embeds_as_its_graph_says(batch: int, tmp_path: Path) -> None:
    network = OnnxNetwork(onnx_file(tmp_path))
    images = faces(batch)
    torch.testing.assert_close(network(images), by_hand(images))
    assert (network.input_px, network.embedding_dim, network.metadata) == (PX, DIM, {"color": "RGB"})
    assert not list(network.parameters())
    assert not network.training


@pytest.mark.parametrize("fixed", [1, 2])
def test_a_fixed_batch_takes_any_number_of_faces(fixed: int, tmp_path: Path) -> None:
    network = OnnxNetwork(onnx_file(tmp_path, shape=(fixed, 3, PX, PX)))
    images = faces(5)
    torch.testing.assert_close(network(images), by_hand(images))


def test_bytes_and_channels_last_are_given_as_the_graph_takes_them(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, shape=("batch", PX, PX, 3), elem_type=TensorProto.UINT8, axes=(1, 2))
    images = faces(3)
    pixels = ((images + 1) * 127.5).round()
    torch.testing.assert_close(OnnxNetwork(path)(images), by_hand(pixels))


def test_a_size_that_is_left_open_takes_any_face(tmp_path: Path) -> None:
    network = OnnxNetwork(onnx_file(tmp_path, shape=("batch", 3, "height", "width")))
    assert network.input_px is None
    large = torch.rand(2, 3, 20, 20)
    torch.testing.assert_close(network(large), by_hand(large))


def test_the_output_of_embeddings_is_found_among_others(tmp_path: Path) -> None:
    network = OnnxNetwork(onnx_file(tmp_path, outputs=("pooled", "embeddings")))
    torch.testing.assert_close(network(faces(2)), by_hand(faces(2)))


def test_copies_and_pickles_open_the_file_again(tmp_path: Path) -> None:
    network = OnnxNetwork(onnx_file(tmp_path), num_threads=1)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(faces(2)), network(faces(2)))


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    onnx.save(
        onnx_model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=64
    )
    torch.testing.assert_close(OnnxNetwork(tmp_path / "m.onnx")(faces(2)), by_hand(faces(2)))
    (tmp_path / "m.bin").unlink()
    with pytest.raises(InputError, match=r"needs the file m\.bin beside it, which is missing"):
        OnnxNetwork(tmp_path / "m.onnx")


@pytest.mark.parametrize("way", ["dots", "absolute", "link"])
def test_weights_outside_of_the_folder_are_refused(way: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    location = {"dots": "../secret", "absolute": str(tmp_path / "secret"), "link": "weights"}[way]
    if way == "link":
        (folder / "weights").symlink_to(tmp_path / "secret")
    model = onnx_model()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="is refused: its weights weight lie outside of its folder"):
        OnnxNetwork(folder / "m.onnx")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty or no ONNX file"),
        (b"an honest text", "is cut short or no ONNX file"),
        (onnx_model().SerializeToString()[:-40], "is cut short or no ONNX file"),
        (onnx_of_shape("batch", 1, PX, PX), "must have one input of faces"),
        (onnx_of_shape("batch", 3, PX, PX + 1), "must have one input of faces"),
        (onnx_of_shape("batch", 3), "must have one input of faces"),
        (onnx_model(elem_type=TensorProto.DOUBLE).SerializeToString(), "must have one input of faces"),
        (onnx_model(outputs=("pooled",)).SerializeToString(), "must have one output of embeddings"),
        (
            onnx_model(outputs=("embeddings", "twin")).SerializeToString(),
            "must have one output of embeddings",
        ),
    ],
    ids=["empty", "text", "cut", "grey", "oblong", "flat", "double", "maps", "two"],
)
def test_a_file_that_is_no_onnx_recogniser_is_told_in_one_sentence(
    content: bytes, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        OnnxNetwork(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_operator_that_does_not_exist_is_told_in_one_sentence(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.node[0].op_type = "Telepathy"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"onnxruntime cannot run .*Telepathy") as caught:
        OnnxNetwork(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [OnnxNetwork, load_exported])
def test_a_file_that_is_missing_is_named(load: Callable[[Path], nn.Module], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pt2 is not a file"):
        load(tmp_path / "gone.pt2")


def test_faces_of_another_size_are_refused(archive: Path, tmp_path: Path) -> None:
    for network in (OnnxNetwork(onnx_file(tmp_path)), load_exported(archive)):
        with pytest.raises(InputError, match=r"takes images of shape \(B, 3, 8, 8\), got \(2, 3, 9, 9\)"):
            network(torch.zeros(2, 3, 9, 9))


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has no npu here"):
        OnnxNetwork(onnx_file(tmp_path), device="npu")


@pytest.mark.parametrize("batch", [1, 3])
def test_an_archive_embeds_exactly_as_the_network_did(batch: int, small: nn.Module, archive: Path) -> None:
    network = load_exported(archive)
    assert torch.equal(network(faces(batch)), small(faces(batch)))
    assert not network.training
    assert (network.input_px, network.embedding_dim) == (PX, DIM)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    count = sum(parameter.numel() for parameter in small.parameters())
    assert static_efficiency(network, size_px=PX)["efficiency/parameters"] == count


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch 2.13 copies its own deprecated class
def test_an_archive_of_the_core_operators_embeds_as_the_network_did(small: nn.Module, tmp_path: Path) -> None:
    program = torch.export.export(small, (faces(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program.run_decompositions(), tmp_path / "core.pt2")
    torch.testing.assert_close(load_exported(tmp_path / "core.pt2")(faces(3)), small(faces(3)))


class Activations(nn.Module):
    """What bends the students' signals, of six numbers in [-5, 5] of each face."""

    def forward(self, images: Tensor) -> Tensor:
        x = 5 * images[:, :, 0, :2].flatten(1)
        return torch.cat([F.relu(x), F.silu(x), F.hardsigmoid(x), F.hardswish(x), F.gelu(x)], dim=1)


def test_activations_of_an_archive_follow_their_formulas(tmp_path: Path) -> None:
    x = 5 * faces(3)[:, :, 0, :2].flatten(1).double().numpy()
    gate = np.clip(x + 3, 0, 6) / 6
    normal = np.array([[math.erf(value / math.sqrt(2)) for value in row] for row in x]) / 2 + 0.5
    expected = np.concatenate([np.maximum(x, 0), x / (1 + np.exp(-x)), gate, gate * x, normal * x], axis=1)
    found = load_exported(exported(Activations(), tmp_path / "activations.pt2"))(faces(3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


class ChannelAttention(nn.Module):
    """A face's mean colour, after channels have mixed by how alike they are over all places."""

    def forward(self, images: Tensor) -> Tensor:
        colour_BNC = images.flatten(2).mT
        unit_BNC = F.normalize(colour_BNC, dim=1)
        weight_BCC = (4 * unit_BNC.mT @ unit_BNC).softmax(dim=-1)
        return (weight_BCC @ colour_BNC.mT).mean(dim=2)


def test_attention_of_an_archive_follows_its_formula(tmp_path: Path) -> None:
    colour_BCN = faces(3).double().numpy().reshape(3, 3, PX * PX)
    unit_BCN = colour_BCN / np.sqrt((colour_BCN**2).sum(axis=2, keepdims=True))
    weight_BCC = np.exp(4 * np.einsum("bcn,bdn->bcd", unit_BCN, unit_BCN))
    expected_BC = np.einsum("bcd,bd->bc", weight_BCC, colour_BCN.mean(axis=2)) / weight_BCC.sum(axis=2)
    found = load_exported(exported(ChannelAttention(), tmp_path / "attention.pt2"))(faces(3))
    np.testing.assert_allclose(found.numpy(), expected_BC, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fixed", [1, 2])
def test_an_archive_of_a_fixed_batch_takes_any_number(fixed: int, small: nn.Module, tmp_path: Path) -> None:
    network = load_exported(exported(small, tmp_path / "m.pt2", batch=fixed, dynamic=False))
    torch.testing.assert_close(network(faces(5)), small(faces(5)))


def test_an_archive_copies_and_pickles(archive: Path) -> None:
    network = load_exported(archive)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(faces(2)), network(faces(2)))


def test_networks_of_files_are_measured_like_any_other(archive: Path, tmp_path: Path) -> None:
    for network in (OnnxNetwork(onnx_file(tmp_path), num_threads=1), load_exported(archive)):
        rate = measured_efficiency(network, size_px=PX, repeats=1)["efficiency/faces_per_second_batch_1"]
        assert rate > 0


class Attack:
    """Runs a command when it is unpickled as pickles usually are."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.trace}",)


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def loaded_by_torch(path: Path) -> None:
    """What `torch.export.load` does of an archive, in another process."""
    program = f"import torch; torch.export.load({str(path)!r}).module()(torch.zeros(2, 3, {PX}, {PX}))"
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)


def test_sample_inputs_are_never_unpickled(archive: Path, small: nn.Module, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    attack = changed(archive, tmp_path, "data/sample_inputs/model.pt", lambda _: pickled(Attack(trace)))
    assert torch.equal(load_exported(attack)(faces(2)), small(faces(2)))
    assert not trace.exists()


@pytest.mark.slow
def test_the_same_archive_attacks_torch(archive: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    loaded_by_torch(
        changed(archive, tmp_path, "data/sample_inputs/model.pt", lambda _: pickled(Attack(trace)))
    )
    assert trace.exists(), "torch.export.load has become safe: this project's own reader may go"


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_tensors_are_refused(kind: str, archive: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    def pickle_first(before: bytes) -> bytes:
        config = json.loads(before)
        config["config"]["evil"] = {
            "path_name": "evil",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }
        return json.dumps(config).encode()

    (tmp_path / "one").mkdir()
    added = changed(archive, tmp_path / "one", f"data/{kind}/evil", lambda _: pickled(Attack(trace)))
    attack = changed(added, tmp_path, f"data/{kind}/model_{kind}_config.json", pickle_first)
    with pytest.raises(InputError, match="is refused: its tensor evil is a pickle"):
        load_exported(attack)
    assert not trace.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.add.__class__",
        "torch.ops.profiler._record_function_enter.default",
        "_operator.attrgetter",
        "os.system",
    ],
)
def test_operations_other_than_mathematics_are_refused(target: str, archive: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    def call(program: dict[str, Any]) -> None:
        node = program["graph_module"]["graph"]["nodes"][0]
        node["target"] = target
        node["inputs"] = [{"name": "command", "arg": {"as_string": f"touch {trace}"}, "kind": 1}]

    with pytest.raises(InputError, match="which is none of the mathematics of a network") as caught:
        load_exported(with_graph(archive, tmp_path, call))
    assert target in str(caught.value)
    assert not trace.exists()


def test_sizes_and_names_are_data_and_no_program(archive: Path, small: nn.Module, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"__import__('os').system('touch {trace}')"

    def poison(program: dict[str, Any]) -> None:
        graph = program["graph_module"]["graph"]
        for value in graph["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code
        program["guards_code"] = [code]
        for node in graph["nodes"]:
            node["name"] = code
            node["metadata"] = {"source_fn_stack": f"x,{code}", "nn_module_stack": code}

    attack = with_graph(archive, tmp_path, poison)
    assert torch.equal(load_exported(attack)(faces(2)), small(faces(2)))
    assert not trace.exists()


def test_a_path_that_leaves_the_archive_leads_nowhere(archive: Path, tmp_path: Path) -> None:
    def point_outside(before: bytes) -> bytes:
        config = json.loads(before)
        next(iter(config["config"].values()))["path_name"] = "../../../../../../etc/passwd"
        return json.dumps(config).encode()

    attack = changed(archive, tmp_path, "data/weights/model_weights_config.json", point_outside)
    with pytest.raises(InputError, match=r"it has no data/weights/\.\./.*etc/passwd"):
        load_exported(attack)


def test_a_weight_larger_than_its_bytes_is_refused(archive: Path, tmp_path: Path) -> None:
    def enlarge(before: bytes) -> bytes:
        config = json.loads(before)
        next(iter(config["config"].values()))["tensor_meta"]["sizes"][0]["as_int"] = 10**6
        return json.dumps(config).encode()

    attack = changed(archive, tmp_path, "data/weights/model_weights_config.json", enlarge)
    with pytest.raises(InputError, match="does not describe a network"):
        load_exported(attack)


def test_compressed_members_are_refused(archive: Path, tmp_path: Path) -> None:
    attack = changed(
        archive, tmp_path, "models/model.json", lambda text: text, compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(InputError, match="is compressed, which torch never does"):
        load_exported(attack)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is cut short or no archive of torch"),
        (b"PK and then a text", "is cut short or no archive"),
        (pickled({"weights": torch.zeros(2)}), r"it has no models/model\.json"),
    ],
    ids=["empty", "text", "checkpoint"],
)
def test_a_file_that_is_no_archive_is_told_in_one_sentence(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        load_exported(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_archive_is_told_in_one_sentence(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pt2").write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.pt2 is cut short or no archive of torch\.export"):
        load_exported(tmp_path / "cut.pt2")


@pytest.mark.parametrize("program", [[], {}, {"graph_module": {"graph": 3}}])
def test_json_that_describes_no_network_is_told_in_one_sentence(
    program: object, archive: Path, tmp_path: Path
) -> None:
    attack = changed(archive, tmp_path, "models/model.json", lambda _: json.dumps(program).encode())
    with pytest.raises(InputError, match="does not describe a network") as caught:
        load_exported(attack)
    assert "\n" not in str(caught.value)


def test_a_graph_that_does_not_fit_together_is_told_in_one_sentence(archive: Path, tmp_path: Path) -> None:
    def divide_by_nothing(program: dict[str, Any]) -> None:
        node = program["graph_module"]["graph"]["nodes"][0]
        node["target"] = "_operator.floordiv"
        node["inputs"] = [{"name": name, "arg": {"as_int": 0}, "kind": 1} for name in "ab"]

    network = load_exported(with_graph(archive, tmp_path, divide_by_nothing))
    with pytest.raises(InputError, match=r"cannot embed \(2, 3, 8, 8\): .*by zero") as caught:
        network(faces(2))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch 2.13 copies its own deprecated class
def test_an_archive_of_a_training_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pt2"
    program = torch.export.export(
        Small().train(), (faces(2),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program.run_decompositions(), path)
    with pytest.raises(InputError, match="export it in evaluation mode"):
        load_exported(path)
