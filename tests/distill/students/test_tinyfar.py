"""TinyFaR against the published networks, and what it starts from. Most of it needs timm."""

import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from distill.errors import InputError
from distill.evaluation import static_efficiency_of
from distill.students import TinyFaR, TinyFaRSettings


@pytest.fixture(scope="module")
def imagenet(timm: ModuleType) -> dict[str, Tensor]:
    """Weights of a whole tinynet_c, as they are published: with a classifier."""
    torch.manual_seed(1)
    return timm.create_model("tinynet_c", pretrained=False).state_dict()


def started_from(path: Path, *, variant: str = "c") -> TinyFaR:
    settings = TinyFaRSettings.model_validate({"variant": variant, "weights": path})
    return settings.build(embedding_dim=8, size_px=32)


def test_says_how_to_get_timm_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError,
        match=r"student\.name tinyfar needs timm, which cannot be imported here \(.*timm.*\): "
        r"pip install 'face-distillation-sweeps\[timm\]'$",
    ):
        TinyFaRSettings().build(embedding_dim=8, size_px=32)


def test_settings_need_no_library() -> None:
    assert TinyFaRSettings().init == "scratch"
    assert TinyFaRSettings(weights=Path("tinynet_c.pth")).init == "imagenet"


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("variant", "parameters", "mega_macs", "entries"),
    [
        ("a", 5_562_844, 126.8, 426),
        ("b", 3_105_434, 75.5, 360),
        ("c", 1_832_106, 38.2, 338),
    ],
)
def test_costs_what_the_published_students_do(
    variant: str, parameters: int, mega_macs: float, entries: int
) -> None:
    settings = TinyFaRSettings.model_validate({"variant": variant})
    efficiency = static_efficiency_of(settings, embedding_dim=512, size_px=112)
    assert efficiency["efficiency/parameters"] == parameters
    assert efficiency["efficiency/macs"] / 1e6 == pytest.approx(mega_macs, abs=0.05)
    with torch.device("meta"):
        names = list(settings.build(embedding_dim=512, size_px=112).state_dict())
    assert len(names) == entries
    assert {name.partition(".")[0] for name in names} == {"cnn", "fc"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_starts_from_the_features_of_a_file(suffix: str, imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"tinynet_c{suffix}"
    if suffix == ".pth":
        torch.save(imagenet, path)
    else:
        save_file(imagenet, path)
    features = started_from(path).cnn.state_dict()
    assert len(features) == len(imagenet) - len(("classifier.weight", "classifier.bias"))
    assert all(torch.equal(tensor, imagenet[name]) for name, tensor in features.items())


def test_old_files_without_counters_will_do(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in imagenet.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(imagenet)
    save_file(old, tmp_path / "old.safetensors")
    features = started_from(tmp_path / "old.safetensors").cnn.state_dict()
    assert torch.equal(features["conv_stem.weight"], imagenet["conv_stem.weight"])


def test_counting_what_it_costs_reads_no_file(timm: ModuleType, tmp_path: Path) -> None:
    del timm
    settings = TinyFaRSettings(weights=tmp_path / "absent.pth")
    assert static_efficiency_of(settings, embedding_dim=8, size_px=32)["efficiency/parameters"] > 1e6


def test_weights_of_another_network_are_told_in_one_sentence(
    imagenet: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(imagenet, tmp_path / "c.safetensors")
    with pytest.raises(
        InputError, match=r"student\.weights must be those of tinynet_a, but \d+ tensors of .*c\.safetensors"
    ) as caught:
        started_from(tmp_path / "c.safetensors", variant="a")
    assert "\n" not in str(caught.value)


class Trap:
    """Calls `print` where a careless reader unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("sprung",)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.pth", None, "there is no file"),
        ("absent.safetensors", None, "there is no file"),
        ("empty.pth", b"", "must be a safetensors file or a .pth file of tensors alone"),
        ("text.pth", b"weights", "must be a safetensors file or a .pth file of tensors alone"),
        ("text.safetensors", b"weights", "must be a safetensors file or a .pth file of tensors alone"),
        (
            "trap.pth",
            pickle.dumps(Trap(), protocol=2),
            "must be a safetensors file or a .pth file of tensors alone",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_sentence(
    name: str, content: bytes | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        started_from(path)
    assert str(caught.value).startswith("student.weights")
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "sprung" not in capsys.readouterr().out


@pytest.mark.usefixtures("timm")
def test_a_file_that_names_no_tensors_is_told_in_one_sentence(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"fc.weight": torch.zeros(1)}}, tmp_path / "trainer.pth")
    with pytest.raises(InputError, match=r"student\.weights must name a tensor by each of its keys"):
        started_from(tmp_path / "trainer.pth")
