"""What is no teacher's weights is told by what it is, in one sentence, and nothing of it is executed."""

import io
import itertools
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from distill.errors import TeacherError
from distill.teachers.pretrained import Facts, PretrainedTeacherSettings
from distill.teachers.pretrained.checkpoint import kind_of, read_tensors
from tests.distill.teachers.pretrained.files import NETWORKS, SIZE_PX, iresnet, save

SMALL = Facts(size_px=SIZE_PX)


def refusal(path: Path, **settings: Any) -> str:
    """The one sentence that the settings and the loading answer with."""
    chosen = PretrainedTeacherSettings.model_validate({"weights": path, "facts": SMALL} | settings)
    with pytest.raises(TeacherError) as caught:
        chosen.load()
    told = str(caught.value)
    assert "\n" not in told
    assert str(path) in told
    return told


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), content)
    return stream.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "looks like an empty file"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(100), "looks like a JPEG image"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "looks like a PNG image"),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "looks like an HTML page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "looks like a Git LFS pointer",
    ),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "looks like a gzip archive, which must be unpacked"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(100), "looks like a NumPy array"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "looks like an HDF5 file"),
    "mxnet": (b"\x12\x01" + bytes(100), "looks like the parameters of an MXNet network"),
    "buffalo.zip": (zipped(w600k_r50_DOT_onnx=b"x"), "a zip archive that holds w600k_r50.onnx: unpack it"),
    "cut.zip": (zipped(data_DOT_pkl=b"x")[:40], "is cut short or damaged"),
    "noise": (
        b"\xde\xad\xbe\xef" * 30,
        "holds no weights: it looks like a file of no known kind that starts with 0xdeadbeef",
    ),
    "cut.safetensors": (safetensors.torch.save({"a": torch.ones(90)})[:-9], "is cut short or damaged"),
    "cut.onnx": (b"\x08\x08\x12\xff", "is cut short or no ONNX file"),
}


@pytest.mark.parametrize("name", FILES)
def test_another_file_is_told_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    told = refusal(path)
    assert told.startswith(f"teacher.weights: {path} ")
    assert expected in told


@pytest.mark.parametrize("length", [0x0112, 0x8B1F, 0x4B50, 0x0280])
def test_a_safetensors_header_of_any_length_is_no_other_file(tmp_path: Path, length: int) -> None:
    content = safetensors.torch.save({"a": torch.zeros(1)})
    size = int.from_bytes(content[:8], "little")
    header, tensors = content[8 : 8 + size].ljust(length), content[8 + size :]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + tensors)
    assert kind_of(path) == "safetensors"
    assert read_tensors(path)


def test_a_missing_file_is_told_by_where_it_was_looked_for() -> None:
    assert f"there is no file {Path.cwd() / 'nowhere.pth'}" in refusal(Path("nowhere.pth"))


def test_a_torchscript_archive_is_told(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    path.write_bytes(zipped(net__data_DOT_pkl=b"", net__constants_DOT_pkl=b"", net__code__a_DOT_py=b""))
    assert "looks like a TorchScript archive, which is code" in refusal(path)


class Evil:
    """Once unpickled, it leaves a file behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_malicious_checkpoint_is_refused_and_executes_nothing(tmp_path: Path, writer: str) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    WRITERS[writer]({"state_dict": dict(iresnet().state_dict()), "extra": Evil(trace)}, path)
    told = refusal(path)
    assert "is refused, since reading it would execute posix.system: if you trust it, torch.save" in told
    assert not trace.exists()


def test_a_bare_pickle_is_not_opened(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Evil(trace)))
    assert "looks like a pickle that torch.save did not write, which is not opened" in refusal(path)
    assert not trace.exists()


def test_a_pickled_network_is_refused_by_its_class(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    assert "would execute torch.nn.modules.linear.Linear" in refusal(tmp_path / "whole.pt")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_truncated_checkpoint_is_told_in_one_sentence(tmp_path: Path, writer: str, share: float) -> None:
    path = tmp_path / "cut.pth"
    WRITERS[writer](dict(iresnet().state_dict()), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "is cut short or damaged" in refusal(path)


CONTENTS: dict[str, tuple[Any, str]] = {
    "optimizer": (torch.optim.SGD([torch.zeros(2)], lr=0.1).state_dict(), "looks like the state of an optim"),
    "head": ({"weight": torch.zeros(500, 20)}, r"looks like a softmax head of shape (500, 20)"),
    "bare head": (torch.zeros(500, 20), r"looks like a softmax head of shape (500, 20)"),
    "list": ([torch.zeros(2)], "holds no network but list"),
    "no network": ({"epoch": 3, "step": 5}, "in which no network is found: it holds epoch, step"),
    "nothing": ({}, "in which no network is found: it holds nothing"),
    "resnet": ({"layer1.0.bn1.weight": torch.zeros(2)}, "looks like a ResNet without PReLUs"),
    "vit": ({"net.blocks.0.attn.qkv.weight": torch.zeros(2, 2)}, "looks like a vision transformer"),
    "other": (
        {f"a.{i}.weight": torch.zeros(2) for i in range(9)},
        "no network that is known by its names: it has 9 tensors, the first a.0.weight",
    ),
    "two": (
        {
            f"{part}.{name}": tensor
            for part in ("student", "teacher")
            for name, tensor in iresnet().state_dict().items()
        },
        "holds several networks: student., teacher.",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_another_content_is_told(tmp_path: Path, name: str) -> None:
    content, expected = CONTENTS[name]
    assert expected in refusal(save(content, tmp_path / "other.pth"))


@pytest.mark.parametrize(("found", "asked"), list(itertools.permutations(NETWORKS, 2)))
def test_a_network_of_another_family_is_told(tmp_path: Path, found: str, asked: str) -> None:
    titles = {
        "iresnet": "an IResNet",
        "adaface": "an IR network of AdaFace",
        "mbf": "an mbf of InsightFace",
        "mobilefacenet": "a classic MobileFaceNet",
    }
    told = refusal(save(NETWORKS[found](), tmp_path / "weights.pth"), family=asked)
    assert told.endswith(f"weights.pth looks like {titles[found]}, which is not {asked}")


@pytest.mark.parametrize("family", ["onnx", "exported"])
def test_a_checkpoint_is_no_graph(tmp_path: Path, family: str) -> None:
    told = refusal(save(iresnet(), tmp_path / "weights.pth"), family=family)
    assert told.endswith(f"looks like an IResNet, which is not {family}")


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    """An IResNet's weights with some replaced, or left out."""
    weights: dict[str, Any] = dict(iresnet().state_dict())
    for name, tensor in changes.items():
        weights[name.replace("__", ".")] = tensor
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


@pytest.mark.parametrize(
    "missing",
    ["bn2.bias", "layer2.1.conv2.weight", "layer1.0.downsample.0.weight", "layer3.0.conv1.weight"],
)
def test_a_missing_tensor_is_refused(tmp_path: Path, missing: str) -> None:
    told = refusal(save(changed(**{missing.replace(".", "__"): None}), tmp_path / "weights.pth"))
    assert f"lacks {missing}" in told


@pytest.mark.parametrize("missing", ["fc.weight", "features.running_mean"])
def test_a_missing_part_of_the_head_is_refused(tmp_path: Path, missing: str) -> None:
    path = save(changed(**{missing.replace(".", "__"): None}), tmp_path / "weights.pth")
    told = refusal(path, facts=Facts(size_px=SIZE_PX, embedding_dim=None if "fc" not in missing else 20))
    assert f"lacks {missing}" in told


def test_one_tensor_too_many_is_refused(tmp_path: Path) -> None:
    path = save(changed(layer1__0__se_block__fc1__weight=torch.zeros(2)), tmp_path / "weights.pth")
    assert "it lacks nothing and has layer1.0.se_block.fc1.weight too many" in refusal(path)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = save(changed(fc__bias=torch.zeros(7)), tmp_path / "weights.pth")
    assert "fc.bias has shape (7,), expected (20,)" in refusal(path)


def test_another_size_of_faces_does_not_fit_the_head(tmp_path: Path) -> None:
    told = refusal(save(iresnet(), tmp_path / "weights.pth"), facts=Facts())
    assert "fc.weight has shape (20, 512), expected (20, 1568)" in told


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = torch.full((20,), torch.nan)
    path = save(changed(fc__bias=broken), tmp_path / "weights.pth")
    assert refusal(path) == f"teacher.weights: fc.bias of {path} is not finite"


def test_a_fact_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    path = save(iresnet(), tmp_path / "weights.pth")
    facts = Facts(size_px=SIZE_PX, embedding_dim=512)
    assert "teacher.facts.embedding_dim must be 20 for" in refusal(path, facts=facts)
    with pytest.raises(TeacherError, match="must be 20"):
        _ = PretrainedTeacherSettings(weights=path, facts=facts).embedding_dim
