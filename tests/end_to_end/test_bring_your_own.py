"""The page on bringing files of one's own is what it says: its files are written, its commands run in order.

What it names is made here. Everybody is a pattern of colours that is its own mirror image, as faces nearly
are, so that networks of random weights know people apart once their normalisations have met some: the page's
teachers pass their self-test as they would with faces. Only what the generator draws, no teacher could know.

H: side of a face, N: faces
"""

import io
import itertools
import json
import os
import pickle
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.checkpoint import StudentCard, read_card
from distill.evaluation import static_efficiency_of
from distill.students import AnyStudentSettings, IResNet, StudentSettings
from tests.distill.faces.stored.writer import write_with_header
from tests.distill.faces.stylegan2 import nvidia
from tests.distill.faces.stylegan2.by_hand import random_tensors
from tests.end_to_end.machine import BIN

ROOT = Path(__file__).parents[2]
README, PAGE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "bring_your_own.md").read_text()
SECTIONS = {part.partition("\n")[0]: part.partition("\n")[2] for part in PAGE.split("\n## ")[1:]}
MOST_WORDS = 200
"""Of a section's prose: what is read in a minute."""

TRIAL = ("faces.size_px=32", "training.epochs=2", "training.faces_per_epoch=64", "training.batch_size=32")
SWEEP = (*TRIAL, "search.num_trials=1", "resources.cpus_per_worker=1", "resources.gpus_per_worker=0")
SMALLER: dict[str, tuple[str, ...]] = {
    "distill train": TRIAL,
    "sweeps validate": SWEEP,
    "sweeps run": SWEEP,
    "sweeps run dataset.yaml": ("search.num_trials=2",),  # which share a cache
    # What a generator of random weights draws is no face, and has no mirror image that a teacher could know.
    "sweeps run generator.yaml": ("teacher.mirror_margin=0",),
}
"""What commands are given by `--set` beside what the page says, by what is in them."""

SIZE_PX, WIDTH = 112, 512
GENERATOR: dict[str, Any] = {
    "resolution": 64,
    "channel_base": 1024,
    "channel_max": 8,
    "z_dim": 16,
    "c_dim": 0,
    "w_dim": 16,
    "layers": 2,
}


# ---- the page ----------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The files that the page shows, by the names in their first lines."""
    shown = [block.partition("\n") for block in blocks("yaml") + blocks("python")]
    return {first.removeprefix("# "): text for first, _, text in shown}


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def smaller(command: str) -> str:
    """The command, with what makes it quick."""
    told = [setting for part, settings in SMALLER.items() if part in command for setting in settings]
    return " ".join([command, *(f"--set {setting}" for setting in told)])


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_read_in_a_minute(section: str) -> None:
    prose = re.sub(r"^```.*?^```", "", SECTIONS[section], flags=re.MULTILINE | re.DOTALL)
    assert 0 < sum(bool(re.search(r"\w", word)) for word in prose.split()) <= MOST_WORDS


@pytest.mark.parametrize("text", [SECTIONS["Student"], README], ids=["page", "README"])
@pytest.mark.parametrize("settings", get_args(get_args(AnyStudentSettings)[0]))
def test_every_student_is_listed_with_its_size(text: str, settings: type[StudentSettings]) -> None:
    name = settings.model_fields["name"].default
    (row,) = [line for line in text.splitlines() if re.match(rf"\| `({{name: )?{name}\b", line)]
    if name == "tinyfar":
        pytest.importorskip("timm")
    count = static_efficiency_of(settings(), embedding_dim=WIDTH, size_px=SIZE_PX)["efficiency/parameters"]
    assert re.search(rf"\b({count / 1e6:.1f}|{count / 1e6:.2f})\b", row.split("|")[2])


# ---- the files that it names -------------------------------------------------------------------------------


def picture(person: int, image: int = 0) -> np.ndarray:
    """An image of a person, uint8, of shape (H, H, 3): the same pattern each time, under a little noise."""
    half = np.random.default_rng(person).uniform(0, 255, (6, 3, 3)).astype(np.uint8)
    pattern = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    smooth = np.asarray(pattern.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR))
    noise = np.random.default_rng((person, image)).normal(0, 6, smooth.shape)
    return (smooth + noise).clip(0, 255).astype(np.uint8)


def jpeg(person: int, image: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(person, image)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_faces(folder: Path) -> None:
    """A pack of 56 people and a folder of 30, in two groups, two images each."""
    (folder / "webface").mkdir(parents=True)
    write_with_header(
        folder / "webface" / "train.rec", [[jpeg(person), jpeg(person, 1)] for person in range(56)]
    )
    for person in range(30):
        for image in range(2):
            write(folder / "made" / f"m{person:02d}" / f"{image}.jpg", jpeg(1_000 + person, image))
    for name, people in (("webface", range(56)), ("made", [f"m{person:02d}" for person in range(30)])):
        groups = [f"{person},{'ab'[place % 2]}" for place, person in enumerate(people)]
        write(folder / f"{name}.csv", "\n".join(["identity,group", *groups]))


def write_packs(folder: Path) -> None:
    for name, first in (("lfw", 2_000), ("agedb_30", 3_000)):
        people = range(first, first + 20)
        images = [image for p in people for image in (jpeg(p), jpeg(p if p % 2 else p + 100, 1))]
        write(folder / f"{name}.bin", pickle.dumps((images, [bool(p % 2) for p in people])))
    for number, group in enumerate(("African", "Asian", "Caucasian", "Indian")):
        names = [f"m.0{number}{person}" for person in range(6)]
        for person, name in enumerate(names):
            for image in (1, 2):
                face = jpeg(4_000 + 10 * number + person, image)
                write(folder / "rfw" / "data" / group / name / f"{name}_{image:04d}.jpg", face)
        genuine = [f"{name}\t1\t2" for name in names]
        impostors = [f"{name}\t1\t{other}\t2" for name, other in itertools.pairwise(names)]
        write(folder / "rfw" / "txts" / group / f"{group}_pairs.txt", "\n".join(genuine + impostors))


def faces(first: int, number: int = 96) -> Tensor:
    """People as networks see them, RGB in [-1, 1], of shape (N, 3, H, H)."""
    pixels = np.stack([picture(person) for person in range(first, first + number)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def met(network: nn.Module, faces: Tensor) -> nn.Module:
    """The network with the statistics of faces in its normalisations, as training leaves them."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean of all that is met, and not of what was there before
    with torch.no_grad():
        network.train()(faces)
    return network.eval()


def iresnet() -> IResNet:
    """As arcface_torch's in all but its size."""
    return IResNet(blocks=(1, 1, 1, 1), widths=(8, 16, 24, 32), embedding_dim=WIDTH, size_px=SIZE_PX)


def pooled() -> nn.Module:
    """What `my_networks.py` of the page builds."""
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(588, WIDTH), nn.BatchNorm1d(WIDTH))


def onnx_recogniser(path: Path, faces: Tensor) -> None:
    """A graph that pools a face, takes the mean face from it, and multiplies it with random numbers."""
    mean = nn.functional.avg_pool2d(faces, 8).flatten(1).mean(0).numpy()
    weight = np.random.default_rng(0).normal(size=(588, WIDTH)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["faces"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["small"], ["flat"]),
        helper.make_node("Sub", ["flat", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weight"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["B", 3, SIZE_PX, SIZE_PX])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", WIDTH])],
        [numpy_helper.from_array(mean, "mean"), numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_teachers(folder: Path) -> None:
    """Of random weights, and small."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    people = faces(5_000)
    torch.save(met(iresnet(), people).state_dict(), folder / "r50.pth")
    onnx_recogniser(folder / "w600k_r50.onnx", people)
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(met(pooled(), people), (people[:2],), dynamic_shapes=batch),
        folder / "exported.pt2",
    )
    save_file(met(pooled(), people).state_dict(), folder / "own.safetensors")


def write_generator(path: Path) -> None:
    network = nvidia.generator(random_tensors(**GENERATOR), **GENERATOR)
    write(path, nvidia.written(nvidia.snapshot(network)))


# ---- its commands, in their order --------------------------------------------------------------------------

NOT_THE_READERS = ("SWEEPS_HOME", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")


class Place:
    """The folder in which a reader of the page works, and what each command printed there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.printed: dict[str, str] = {}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in NOT_THE_READERS}
        done = subprocess.run(
            ["sh", "-c", smaller(command)],
            cwd=self.folder,
            env={**environment, "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.printed[command] = done.stdout
        return done

    def said(self, words: str) -> str:
        """What the one command printed that begins so."""
        (text,) = [text for command, text in self.printed.items() if command.startswith(words)]
        return text

    def left(self, pattern: str) -> list[Path]:
        return sorted(self.folder.glob(pattern))

    def student(self, folder: str) -> StudentCard:
        return read_card(self.folder / folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Everything that the page names, and what is left when everything that it shows was run."""
    folder = tmp_path_factory.mktemp("own")
    write_faces(folder / "faces")
    write_packs(folder / "packs")
    write_teachers(folder / "teachers")
    write_generator(folder / "ffhq.pkl")
    for name, text in files().items():
        write(folder / name, text)
    place = Place(folder)
    for command in commands():
        done = place.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return place


@pytest.mark.slow
def test_a_dataset_is_trained_on_and_judged_by_its_groups(place: Place) -> None:
    assert "2/2 done" in place.said("sweeps run dataset.yaml")
    for trial in ("0000", "0001"):
        metrics = place.student(f"runs/studies/dataset/trials/{trial}/best").metrics
        assert {"validation/verification_accuracy_a", "validation/verification_accuracy_b"} <= set(metrics)


@pytest.mark.slow
def test_teachers_of_three_kinds_stand_side_by_side(place: Place) -> None:
    assert place.student("student/best").embedding_dim == 3 * WIDTH


@pytest.mark.slow
def test_a_teacher_to_whom_all_are_alike_is_refused_before_a_sweep(place: Place) -> None:
    weights = torch.load(place.folder / "teachers" / "r50.pth", weights_only=True)
    weights["features.bias"] += 10
    torch.save(weights, place.folder / "teachers" / "wrong.pth")
    done = place.run("sweeps run dataset.yaml --name wrong --set teacher.weights=teachers/wrong.pth")
    assert done.returncode == 2
    assert "like its mirror image" in done.stderr
    assert not place.left("runs/studies/wrong")


@pytest.mark.slow
def test_trials_share_a_cache_of_the_size_that_is_told(place: Place) -> None:
    shared, alone = place.left("runs/cache/embeddings/*/card.json"), place.left("student/cache/*/card.json")
    assert (len(shared), len(alone)) == (2, 1)  # dataset.yaml and phone.yaml; trial.yaml
    for path in shared:
        card = json.loads(path.read_text())
        assert path.with_name("embeddings.bin").stat().st_size == 8 * card["num_images"] * WIDTH


@pytest.mark.slow
def test_a_generator_is_converted_and_swept(place: Place) -> None:
    assert place.left("generators/*") == [
        place.folder / f"generators/ffhq.{suffix}" for suffix in ("json", "safetensors")
    ]
    assert "NVIDIA" in json.loads((place.folder / "generators" / "ffhq.json").read_text())["licence"]
    assert place.student("runs/studies/generator/trials/0000/best").student.name == "ghostfacenet"


@pytest.mark.slow
def test_a_student_within_the_budget_is_promoted(place: Place) -> None:
    assert "registered as models:/phone-student@champion" in place.said("sweeps run phone.yaml")
    metrics = place.student("runs/studies/phone/trials/0000/best").metrics
    assert metrics["efficiency/parameters"] <= 1_000_000
    assert metrics["efficiency/macs"] <= 100_000_000


@pytest.mark.slow
def test_a_promoted_model_holds_what_is_told(place: Place) -> None:
    (card,) = place.left("runs/artifacts/phone/models/*/artifacts/data/student/MODEL_CARD.md")
    held = {path.name for path in card.parent.iterdir()}
    assert held == {"student.safetensors", "student.json", "student.onnx", "MODEL_CARD.md"}
    assert all(f"`{name}`" in SECTIONS["Phone"] for name in held)
    assert "| african |" in card.read_text()


@pytest.mark.slow
def test_models_and_files_are_measured_on_a_pack(place: Place) -> None:
    for model in ("models:/phone-student@champion", "teachers/w600k_r50.onnx"):
        assert re.search(r"^lfw/verification_accuracy +[01]", place.said(f"distill evaluate {model}"))


@pytest.mark.slow
def test_every_format_is_exported_and_compared(place: Place) -> None:
    table = place.said("distill export").partition("format")[2].splitlines()[1:]
    assert [row.split()[0] for row in table] == ["pytorch", "onnx", "pt2", "onnx-int8"]
    written = {path.name for path in place.left("phone/*")}
    assert written == {"student.onnx", "student.pt2", "student.int8.onnx"}
    assert all(f"`{name}`" in SECTIONS["Phone"] for name in written)
