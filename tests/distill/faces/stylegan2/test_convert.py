"""Converting NVIDIA's pickles: nothing of them runs, and everything of the generator arrives."""

import hashlib
import io
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch._utils
from torch import Tensor, nn

from distill.errors import InputError
from distill.faces.stylegan2 import convert as convert_module
from distill.faces.stylegan2 import load_generator
from distill.faces.stylegan2.convert import convert
from distill.faces.stylegan2.load import read_card
from distill.unpickling import ForbiddenGlobalError
from tests.distill.faces.stylegan2 import nvidia
from tests.distill.faces.stylegan2.by_hand import drawn, mapped, random_tensors
from tests.distill.faces.stylegan2.nvidia import Persistent, nvidias_modules, snapshot, written

SIZES: dict[str, Any] = {
    "resolution": 32,
    "channel_base": 1024,
    "channel_max": 12,
    "z_dim": 6,
    "c_dim": 0,
    "w_dim": 10,
    "layers": 3,
}


class Call:
    """Calls a function when it is unpickled as pickles usually are."""

    def __init__(self, function: Callable[..., Any], *arguments: object):
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def generator(module_src: str = "", **options: Any) -> Persistent:
    return nvidia.generator(random_tensors(**SIZES), module_src=module_src, **{**SIZES, **options})


def part(network: Persistent, path: str) -> nn.Module:
    return network.get_submodule(path)


def saved(tmp_path: Path, content: bytes) -> Path:
    source = tmp_path / "ffhq.pkl"
    source.write_bytes(content)
    return source


def refused(tmp_path: Path, content: bytes) -> str:
    """What is said of a pickle, in one sentence; nothing is written."""
    with pytest.raises(InputError) as error:
        convert(saved(tmp_path, content), tmp_path / "out" / "ffhq")
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(error.value)
    assert str(tmp_path / "ffhq.pkl") in str(error.value)
    return str(error.value)


def storage_bytes(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


# ---- what arrives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["ada", "stylegan3"])
@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("c_dim", [0, 5])
def test_every_tensor_arrives(layout: str, protocol: int, c_dim: int, tmp_path: Path) -> None:
    sizes = {**SIZES, "c_dim": c_dim}
    tensors = random_tensors(**sizes)
    network = nvidia.generator(tensors, layout=layout, **sizes)
    content = written(snapshot(network), protocol=protocol)
    path = convert(saved(tmp_path, content), tmp_path / "new" / "ffhq.v1")
    assert path == tmp_path / "new" / "ffhq.v1.safetensors"
    arrived = safetensors.torch.load_file(path)
    assert arrived.keys() == tensors.keys()
    assert all(torch.equal(arrived[name], tensors[name]) for name in tensors)
    assert sorted(file.name for file in path.parent.iterdir()) == ["ffhq.v1.json", "ffhq.v1.safetensors"]
    assert "torch_utils" not in sys.modules


def test_the_card_says_what_it_is_and_where_it_comes_from(tmp_path: Path) -> None:
    content = written(snapshot(generator(conv_clamp=256.0)))
    path = convert(saved(tmp_path, content), tmp_path / "ffhq", licence="NVIDIA Source Code License")
    assert json.loads((tmp_path / "ffhq.json").read_text()) == {
        "architecture": {
            "z_dim": 6,
            "c_dim": 0,
            "w_dim": 10,
            "resolution": 32,
            "channel_base": 1024,
            "channel_max": 12,
            "num_mapping_layers": 3,
            "conv_clamp": 256.0,
        },
        "source_sha256": hashlib.sha256(content).hexdigest(),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "NVIDIA Source Code License",
    }


def test_a_pickle_does_not_say_its_licence(tmp_path: Path) -> None:
    assert read_card(convert(saved(tmp_path, written(snapshot(generator()))), tmp_path / "g")).licence is None


@pytest.mark.parametrize("clamp", [None, 1.5])
def test_what_was_converted_draws_what_the_original_does(clamp: float | None, tmp_path: Path) -> None:
    tensors = random_tensors(**SIZES)
    source = saved(tmp_path, written(snapshot(generator(conv_clamp=clamp))))
    faces = load_generator(convert(source, tmp_path / "ffhq"), size_px=32, noise="const", psi=0.7)
    z_BZ = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    w_BW = mapped(tensors, z_BZ, psi=0.7)
    torch.testing.assert_close(faces.mapping(z_BZ).double(), w_BW, rtol=1e-5, atol=1e-5)
    ws_BLW = w_BW[:, None].expand(-1, 8, -1)
    given = faces.network.synthesis(ws_BLW.float(), lambda layer, stored: stored)
    torch.testing.assert_close(given.double(), drawn(tensors, ws_BLW, clamp=clamp), rtol=1e-5, atol=1e-5)
    assert faces.synthesis(faces.mapping(z_BZ)).shape == (3, 3, 32, 32)


def test_the_generator_of_another_numpy_and_in_another_layout_arrives(tmp_path: Path) -> None:
    tensors = random_tensors(**SIZES)
    laid_out = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in tensors.items()
    }
    content = written(snapshot(nvidia.generator(laid_out, **SIZES)))
    assert b"numpy._core.multiarray" in content
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    arrived = safetensors.torch.load_file(convert(saved(tmp_path, old), tmp_path / "ffhq"))
    assert all(torch.equal(arrived[name], tensors[name]) for name in tensors)


def test_tensors_that_share_their_memory_arrive(tmp_path: Path) -> None:
    network = generator()
    shared = part(network, "synthesis.b8.conv0").get_buffer("resample_filter")
    for block in ("b8.conv1", "b16.conv0", "b32"):
        part(network, f"synthesis.{block}").register_buffer("resample_filter", shared)
    path = convert(saved(tmp_path, written(snapshot(network))), tmp_path / "ffhq")
    assert torch.equal(safetensors.torch.load_file(path)["synthesis.b32.resample_filter"], shared)


def test_a_pickle_may_be_pinned(tmp_path: Path) -> None:
    content = written(snapshot(generator()))
    source, digest = saved(tmp_path, content), hashlib.sha256(content).hexdigest()
    assert convert(source, tmp_path / "ffhq", sha256=digest).is_file()
    with pytest.raises(InputError, match=f"ffhq.pkl has sha256 {digest}, expected {'0' * 64}"):
        convert(source, tmp_path / "other", sha256="0" * 64)


# ---- what does not run -------------------------------------------------------------------------------------


def test_source_text_is_dropped_which_a_usual_reader_runs(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    source_text = f"open({str(trace)!r}, 'w').close()\nclass Generator: pass\n"
    content = written(snapshot(generator(module_src=source_text)))
    path = convert(saved(tmp_path, content), tmp_path / "ffhq")
    assert not trace.exists()
    assert (
        source_text.splitlines()[0].encode() not in path.read_bytes() + path.with_suffix(".json").read_bytes()
    )
    with nvidias_modules(), pytest.raises(KeyError, match=r"MappingNetwork|FullyConnectedLayer"):
        pickle.loads(content)
    assert trace.exists()


def outside(attack: Call) -> Any:
    return {**snapshot(generator()), "training_set_kwargs": attack}


def inside(attack: Call) -> Any:
    network = generator()
    part(network, "synthesis.b8.conv1").__dict__["act_gain"] = attack
    return snapshot(network)


@pytest.mark.parametrize("place", [outside, inside])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, rf"{os.name}\.system"),
        (eval, r"builtins\.eval"),
        (getattr, r"builtins\.getattr"),
        (torch.load, r"torch\.serialization\.load"),
        (torch.hub.load, r"torch\.hub\.load"),
        (pickle.loads, r"_pickle\.loads"),
    ],
)
def test_a_call_is_named_and_not_made(
    place: Callable[[Call], Any], function: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    source = saved(tmp_path, written(place(Call(function, f"touch {trace}"))))
    with pytest.raises(ForbiddenGlobalError, match=rf"ffhq\.pkl is refused: it asks for {name}, which"):
        convert(source, tmp_path / "ffhq")
    assert not trace.exists()


def test_a_call_inside_a_storage_is_not_made(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    payload = storage_bytes(Call(os.system, f"touch {trace}"))
    said = refused(tmp_path, written(outside(Call(torch.storage._load_from_bytes, payload))))
    assert "cut short or no readable pickle" in said
    assert not trace.exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            Call(torch.storage._load_from_bytes, storage_bytes(torch.ones(2))),
            "expected a storage, got Tensor",
        ),
        (
            Call(torch._utils._rebuild_tensor_v2, torch.ones(2)._typed_storage(), 0, (9,), (1,)),
            "out of bounds",
        ),
        (Call(torch._utils._rebuild_tensor_v2, torch.ones(2)._typed_storage(), -1, (1,), (1,)), "offset"),
    ],
)
def test_a_tensor_never_leaves_its_storage(call: Call, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, written(outside(call)))


# ---- files that are none -----------------------------------------------------------------------------------


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*nowhere\.pkl"):
        convert(tmp_path / "nowhere.pkl", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no generator's pickle: it looks like an empty file"),
        (b"PK\x03\x04rest", "is no generator's pickle: it looks like a ZIP archive"),
        (b"<!DOCTYPE html><html>", "is no generator's pickle: it looks like an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is no generator's pickle: it looks like a Git LFS pointer",
        ),
        (b"hello", "is no generator's pickle: it looks like a text file"),
        (pickle.dumps([1, 2]), "holds no G_ema, the generator of a StyleGAN2 pickle"),
        (pickle.dumps({"G_ema": 1}), "holds no G_ema, the generator of a StyleGAN2 pickle"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, content)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95, 0.9999])
def test_a_truncated_file_is_told_in_one_sentence(share: float, tmp_path: Path) -> None:
    content = written(snapshot(generator()))
    said = refused(tmp_path, content[: int(share * len(content))])
    assert "is cut short or no readable pickle" in said


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "MAX_SOURCE_BYTES", 1000)
    assert "has 1,001 bytes, and a generator's pickle at most 1,000" in refused(tmp_path, b"\x80" * 1001)


# ---- networks that are none --------------------------------------------------------------------------------


def altered(change: Callable[[Persistent], None]) -> bytes:
    network = generator()
    change(network)
    return written(snapshot(network))


def as_stylegan3(network: Persistent) -> None:
    synthesis = part(network, "synthesis")
    synthesis._modules.clear()
    synthesis.add_module("input", Persistent("SynthesisInput", ""))


def stretched(network: Persistent) -> None:
    part(network, "synthesis.b4").const = nn.Parameter(
        torch.zeros(()).expand(10**6, 10**6), requires_grad=False
    )


def within_itself(network: Persistent) -> None:
    part(network, "synthesis.b4")._modules["torgb"] = network


def state_of(path: str, **state: Any) -> Callable[[Persistent], None]:
    return lambda network: part(network, path).__dict__.update(state)


def buffer_of(path: str, name: str, tensor: Tensor | None) -> Callable[[Persistent], None]:
    return lambda network: part(network, path).register_buffer(name, tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda network: setattr(network, "_class_name", "Discriminator"), "holds a Discriminator, expected"),
        (as_stylegan3, "holds a StyleGAN3, whose synthesis is another: only StyleGAN2 can be converted"),
        (lambda network: part(network, "synthesis")._modules.clear(), "its synthesis has no block b4"),
        (
            state_of("synthesis.b8", architecture="resnet"),
            "synthesis.b8 has architecture resnet, expected skip",
        ),
        (state_of("synthesis.b8.conv0", activation="relu"), "synthesis.b8.conv0 has activation relu"),
        (state_of("mapping.fc1", bias_gain=1.0), "mapping.fc1 has bias_gain 1.0, expected 0.01"),
        (state_of("", img_resolution=48), "cannot be built: Value error, resolution must be a power of two"),
        (state_of("", img_resolution="?"), "cannot be built: resolution: Input should be a valid integer"),
        (state_of("mapping", num_layers=4), "it lacks mapping.fc3.bias, mapping.fc3.weight and has nothing"),
        (
            state_of("mapping", num_layers=2),
            "it lacks nothing and has mapping.fc2.bias, mapping.fc2.weight too",
        ),
        (buffer_of("synthesis.b8", "extra", torch.ones(1)), "has synthesis.b8.extra too many"),
        (buffer_of("mapping", "w_avg", None), "it lacks mapping.w_avg and has nothing too many"),
        (buffer_of("mapping", "w_avg", torch.ones(9)), "mapping.w_avg has shape (9,), expected (10,)"),
        (
            buffer_of("mapping", "w_avg", torch.ones(10).half()),
            "mapping.w_avg is torch.float16, expected float32",
        ),
        (
            stretched,
            "synthesis.b4.const has shape (1000000, 1000000), expected (12, 4, 4)",
        ),
        (within_itself, "holds a damaged network (TypeError: it has more than 1000 parts)"),
        (state_of("synthesis.b8", _modules=None), "holds a damaged network (AttributeError"),
        (
            state_of("mapping", _buffers={"w_avg": "text"}),
            "holds a damaged network (TypeError: mapping.w_avg is a",
        ),
    ],
)
def test_a_network_that_is_another_is_told(
    change: Callable[[Persistent], None], message: str, tmp_path: Path
) -> None:
    assert message in refused(tmp_path, altered(change))


def test_a_pickle_of_tensorflow_is_told_what_to_do(tmp_path: Path) -> None:
    # What protocol 4 makes of (Network(), Network(), Network()): a class by name, and a new object of it.
    content = b"\x80\x04\x8c\x14dnnlib.tflib.network\x8c\x07Network\x93)\x81."
    said = refused(tmp_path, content)
    assert "is of a TensorFlow version of StyleGAN: it must first become one of the PyTorch version" in said


# ---- loading -----------------------------------------------------------------------------------------------


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    return convert(saved(tmp_path, written(snapshot(generator()))), tmp_path / "ffhq")


def test_the_digest_of_the_faces_follows_the_weights(converted: Path, tmp_path: Path) -> None:
    network = generator()
    part(network, "mapping").get_buffer("w_avg").add_(1)
    other = convert(saved(tmp_path, written(snapshot(network))), tmp_path / "other")
    again = convert(saved(tmp_path, written(snapshot(generator()))), tmp_path / "again")
    digests = [load_generator(path, size_px=16).digest for path in (converted, other, again)]
    assert digests[0] == digests[2] != digests[1]


def test_weights_that_are_not_the_cards_are_refused(converted: Path) -> None:
    content = bytearray(converted.read_bytes())
    content[-1] ^= 1
    converted.write_bytes(content)
    with pytest.raises(InputError, match=r"ffhq.safetensors has sha256 \w{64}, its card says \w{64}"):
        load_generator(converted, size_px=16)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (b"{", "ffhq.json is not a generator's card: Invalid JSON"),
        (b"{}", "ffhq.json is not a generator's card: architecture: Field required"),
    ],
)
def test_a_card_that_is_none_is_refused(card: bytes, message: str, converted: Path) -> None:
    converted.with_suffix(".json").write_bytes(card)
    with pytest.raises(InputError, match=message):
        load_generator(converted, size_px=16)


def test_weights_without_a_card_are_refused(converted: Path) -> None:
    converted.with_suffix(".json").unlink()
    with pytest.raises(
        InputError, match=r"ffhq.safetensors is not a converted generator: there is no .*json"
    ):
        load_generator(converted, size_px=16)


def test_a_card_without_weights_is_refused(converted: Path) -> None:
    converted.unlink()
    with pytest.raises(InputError, match=r"there is no generator .*ffhq\.safetensors"):
        load_generator(converted, size_px=16)


def with_new_digest(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    card = json.loads(path.with_suffix(".json").read_text())
    card["sha256"] = hashlib.sha256(content).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))


def test_weights_that_are_no_safetensors_are_refused(converted: Path) -> None:
    with_new_digest(converted, b"not that")
    with pytest.raises(InputError, match=r"ffhq\.safetensors is no safetensors file"):
        load_generator(converted, size_px=16)


def test_weights_that_do_not_fit_are_refused(converted: Path) -> None:
    weights = safetensors.torch.load_file(converted)
    weights["synthesis.b4.const"] = torch.zeros(3, 4, 4)
    with_new_digest(converted, safetensors.torch.save(weights))
    with pytest.raises(InputError, match=r"synthesis\.b4\.const has shape \(3, 4, 4\), expected \("):
        load_generator(converted, size_px=16)


def test_a_conversion_that_fails_leaves_what_was_there(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        convert(tmp_path / "ffhq.pkl", tmp_path / "ffhq")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
