"""One's own material end to end: weights from elsewhere, packs of faces and a generator make a champion."""

import hashlib
import json
import math
import os
import pickle
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from torch import Tensor

from distill.config import TrialConfig
from distill.faces import EmbeddedFacesSettings
from distill.students import IResNet
from distill.teachers import EmbeddedTeacherSettings
from distill.teachers.embedded import embedded_network
from sweeps.space import load_space
from tests.distill.faces.packs.pictures import SMALL_LFW
from tests.distill.faces.stored.writer import encode, write_with_header
from tests.distill.faces.stylegan2 import nvidia
from tests.distill.faces.stylegan2.by_hand import random_tensors
from tests.end_to_end.machine import BIN, Machine, RayHead

pytestmark = pytest.mark.slow

TRAINED_ON, HELD_OUT, IN_PACKS = 8, 20, 20  # people; 20 is the fewest that may be held out
SIZE_PX = 32
DIGEST = 36  # characters of a digest that MLflow keeps
GENERATOR: dict[str, Any] = {
    "resolution": 32,
    "channel_base": 1024,
    "channel_max": 8,
    "z_dim": 8,
    "c_dim": 0,
    "w_dim": 8,
    "layers": 2,
}


@dataclass(frozen=True)
class Files:
    """Everything that a user brings along, in one folder."""

    root: Path

    @property
    def arcface(self) -> Path:
        return self.root / "r18.pth"

    @property
    def onnx(self) -> Path:
        return self.root / "recogniser.onnx"

    @property
    def training(self) -> Path:
        return self.root / "faces" / "train.rec"

    @property
    def generator(self) -> Path:
        return self.root / "generator.safetensors"

    def pack(self, name: str) -> Path:
        return self.root / f"{name}.bin"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = Files(tmp_path_factory.mktemp("own"))
    people = TRAINED_ON + HELD_OUT + IN_PACKS
    drawn = EmbeddedFacesSettings(size_px=112).labelled(
        num_classes=people, images_per_class=2, authentic=True
    )
    images, _ = drawn.read(torch.arange(2 * people))
    encoded = [encode(image.permute(1, 2, 0).numpy()) for image in images]
    of_each = list(zip(encoded[::2], encoded[1::2], strict=True))
    files.training.parent.mkdir()
    write_with_header(files.training, of_each[: TRAINED_ON + HELD_OUT])
    for name, first in (("validation", TRAINED_ON + HELD_OUT), ("benchmark", people - IN_PACKS // 2)):
        files.pack(name).write_bytes(pairs_of(of_each[first : first + IN_PACKS // 2]))
    torch.save(arcface_r18(images[:32]).state_dict(), files.arcface)
    write_onnx(files.onnx)
    source = files.root / "network-snapshot.pkl"
    source.write_bytes(nvidia.written(nvidia.snapshot(generator())))
    done = distill("convert", str(source), "--out", str(files.generator.with_suffix("")))
    assert done.returncode == 0, done.stderr
    return files


def pairs_of(people: list[tuple[bytes, bytes]]) -> bytes:
    """A pack in which each is compared with themselves and with the next."""
    images: list[bytes] = []
    for number, (first, second) in enumerate(people):
        stranger = people[(number + 1) % len(people)][1]
        images += [first, second, first, stranger]
    return pickle.dumps((images, [True, False] * len(people)))


def arcface_r18(images: Tensor) -> IResNet:
    """The r18 of arcface_torch with random weights, whose BNs have met faces."""
    torch.manual_seed(0)
    network = IResNet(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), embedding_dim=512, size_px=112)
    with torch.no_grad():
        network(images.float() / 127.5 - 1)
    return network


def write_onnx(path: Path) -> None:
    """The teacher of the embedded world as an ONNX graph."""
    network = embedded_network().eval()
    network.load_state_dict(EmbeddedTeacherSettings().load().network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about itself
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, 32, 32),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    path.write_bytes(program.model_proto.SerializeToString())


def generator() -> nvidia.Persistent:
    return nvidia.generator(random_tensors(**GENERATOR), **GENERATOR)


def distill(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `distill` as a user does, with what is registered in a home."""
    told = {} if home is None else {"SWEEPS_HOME": str(home)}
    return subprocess.run(
        [str(BIN / "distill"), *arguments], capture_output=True, text=True, env={**os.environ, **told}
    )


# ---- what is swept -----------------------------------------------------------------------------------------


def from_packs(files: Files) -> dict[str, Any]:
    """Training faces of a pack, some of whose people are held out for validation."""
    return {
        "faces": {
            "name": "files",
            "training": [{"path": str(files.training)}],
            "benchmark": {"path": str(files.pack("benchmark"))},
            "size_px": SIZE_PX,
        },
        "method": {"name": "sface", "num_classes": 1_000, "images_per_class": 100},
    }


def of_arcface(files: Files) -> dict[str, Any]:
    # Nobody trained it: it does not find a face like its mirror image.
    return from_packs(files) | {
        "teacher": {"name": "pretrained", "weights": str(files.arcface), "mirror_margin": 0.0}
    }


def of_onnx(files: Files) -> dict[str, Any]:
    return from_packs(files) | {"teacher": {"name": "pretrained", "weights": str(files.onnx)}}


def of_stylegan2(files: Files) -> dict[str, Any]:
    faces = {"name": "stylegan2", "weights": str(files.generator), "crop": "none", "size_px": SIZE_PX}
    packs = {name: {"path": str(files.pack(name))} for name in ("validation", "benchmark")}
    # Its generator is no more trained than the r18 is.
    teacher = {"name": "pretrained", "weights": str(files.onnx), "mirror_margin": 0.0}
    return {"faces": faces | packs, "teacher": teacher, "method": {"name": "synthdistill"}}


@dataclass(frozen=True)
class Material:
    """What a sweep is made of: settings of its trials, and its teacher's file and width."""

    base: Callable[[Files], dict[str, Any]]
    teacher: Callable[[Files], Path]
    width: int
    teacher_auc: float
    cached: bool


MATERIALS = {
    # Random weights behind BNs that have met faces tell some people apart by colour.
    "arcface": Material(of_arcface, lambda files: files.arcface, 512, teacher_auc=0.6, cached=True),
    "onnx": Material(of_onnx, lambda files: files.onnx, 128, teacher_auc=0.9, cached=True),
    "stylegan2": Material(of_stylegan2, lambda files: files.onnx, 128, teacher_auc=0.9, cached=False),
}


@dataclass(frozen=True)
class Swept:
    """What two sweeps of one space left behind, the first in place and the second with two workers."""

    name: str
    files: Files
    machine: Machine
    in_place: dict[str, Any]
    two_workers: dict[str, Any]
    caches: tuple[dict[Path, int], ...]
    """Those that are new after each of the sweeps, and when they were written."""

    @property
    def config(self) -> TrialConfig:
        space = load_space(str(self.files.root / f"{self.name}.yaml"))
        return space.config(space.first_point())

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.in_place["tracking_uri"])

    @property
    def trials(self) -> list[dict[str, Any]]:
        return [*self.in_place["trials"], *self.two_workers["trials"]]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> Machine:
    """One home for everything."""
    return Machine(home=tmp_path_factory.mktemp("home") / "home", ray=ray_head)


@pytest.fixture(scope="module", params=MATERIALS)
def swept(request: pytest.FixtureRequest, files: Files, machine: Machine) -> Swept:
    name = request.param
    space = {
        "name": name,
        "objectives": [{"metric": "validation/verification_accuracy", "direction": "maximize"}],
        "base": {
            **MATERIALS[name].base(files),
            "student": {"name": "bridge_tiny"},
            "training": {"epochs": 1, "faces_per_epoch": 32, "batch_size": 8},
        },
        "parameters": {"optimizer.lr": {"type": "categorical", "choices": [1e-3, 3e-3]}},
        "search": {"sampler": "grid", "num_trials": 2},
        "scheduler": {"name": "none"},
        "resources": {"max_concurrent": 1},
        "promotion": {
            "model": f"{name}-student",
            "gates": [{"metric": "benchmark/auc", "at_least": 0.0}],
            "automatic": True,
        },
    }
    path = files.root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(space, sort_keys=False))
    before = caches(machine)
    command = ("run", str(path), "--json")
    in_place, after_one = told(machine.run(*command)), caches(machine)
    changes = ("resources.workers_per_trial=2", "search.num_trials=1", "promotion.automatic=false")
    overrides = [argument for change in changes for argument in ("--set", change)]
    two_workers, after_two = told(machine.run(*command, *overrides)), caches(machine)
    made = tuple(dict(found.items() - before.items()) for found in (after_one, after_two))
    return Swept(name, files, machine, in_place, two_workers, made)


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def caches(machine: Machine) -> dict[Path, int]:
    """The whole embedding caches of a home, and when they were written."""
    cards = (machine.home / "cache" / "embeddings").glob("*/card.json")
    return {card.parent: card.stat().st_mtime_ns for card in cards}


# ---- what came of it ---------------------------------------------------------------------------------------


def test_every_trial_completes_with_finite_metrics(swept: Swept) -> None:
    states = [(trial["state"], trial["reason"], trial["epochs"]) for trial in swept.trials]
    assert states == [("complete", None, 1)] * 3
    for trial in swept.trials:
        assert 0 <= trial["metrics"]["validation/auc"] <= 1
        assert all(math.isfinite(value) for value in trial["metrics"].values())
    for document in (swept.in_place, swept.two_workers):
        assert document["teacher"]["validation/auc"] > MATERIALS[swept.name].teacher_auc
    assert swept.machine.wait_until_quiet() == []


def test_mlflow_says_which_faces_and_which_teacher(swept: Swept) -> None:
    config = swept.config
    expected = {
        "training": config.faces.training_digest(),
        "validation": config.faces.validation_pairs().digest,
    }
    teacher = config.teacher.load()
    weights = MATERIALS[swept.name].teacher(swept.files)
    assert teacher.card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    for trial in swept.trials:
        run = swept.client.get_run(trial["run_id"])
        assert run.data.params["teacher.weights"] == str(weights)
        assert run.inputs is not None
        recorded = {entry.tags[0].value: entry.dataset.digest for entry in run.inputs.dataset_inputs}
        assert recorded == {context: digest[:DIGEST] for context, digest in expected.items()}
        card = fetched(swept, f"{run.info.artifact_uri}/student/student.json")
        assert json.loads(card.read_text())["teacher_digest"] == teacher.digest


def test_the_second_sweep_finds_what_the_first_cached(swept: Swept) -> None:
    first, second = swept.caches
    assert first == second
    material = MATERIALS[swept.name]
    assert len(first) == material.cached
    for folder in first:
        # Two images of each person, as they are and mirrored.
        num_bytes = TRAINED_ON * 2 * 2 * material.width * 4
        assert (folder / "embeddings.bin").stat().st_size == num_bytes


def test_a_student_is_promoted_with_its_graph_and_its_card(swept: Swept) -> None:
    version = swept.client.get_model_version_by_alias(f"{swept.name}-student", "champion")
    assert version.run_id == swept.in_place["trials"][0]["run_id"]
    teacher = swept.config.teacher.load()
    assert version.tags["teacher_digest"] == teacher.digest
    (card,) = registered(swept).rglob("MODEL_CARD.md")
    text = card.read_text()
    for said in (teacher.digest, swept.config.faces.training_digest(), "student.onnx", "auc"):
        assert said in text
    assert len(list(registered(swept).rglob("student.onnx"))) == 1


def registered(swept: Swept) -> Path:
    """What lies in the registry under a champion's name."""
    version = swept.client.get_model_version_by_alias(f"{swept.name}-student", "champion")
    return fetched(swept, swept.client.get_model_version_download_uri(version.name, version.version))


def fetched(swept: Swept, artifact: str) -> Path:
    return Path(download_artifacts(artifact, tracking_uri=swept.in_place["tracking_uri"]))


@pytest.mark.parametrize("swept", ["arcface"], indirect=True)
def test_a_champion_and_its_graph_measure_the_same_on_a_pack(swept: Swept) -> None:
    (graph,) = registered(swept).rglob("student.onnx")
    measured = []
    for model in ("models:/arcface-student@champion", str(graph)):
        document = told(
            distill("evaluate", model, "--data", str(SMALL_LFW), "--json", home=swept.machine.home)
        )
        assert document["data_sha256"]
        measured.append({k: v for k, v in document["metrics"].items() if k.startswith("small_lfw/")})
    champion, of_graph = measured
    names = ("verification_accuracy", "verification_accuracy_std", "eer", "auc")
    assert champion.keys() == {f"small_lfw/{name}" for name in names}
    # Its pairs are all genuine: nobody is there to be mistaken for another.
    assert champion["small_lfw/eer"] is champion["small_lfw/auc"] is None
    assert 0.5 < champion["small_lfw/verification_accuracy"] <= 1
    assert of_graph == pytest.approx(champion, abs=1e-3)


@pytest.mark.parametrize("swept", ["arcface"], indirect=True)
def test_a_champion_is_exported_to_every_format(swept: Swept, tmp_path: Path) -> None:
    pack = str(swept.files.pack("benchmark"))
    options = ("--format", "all", "--out", str(tmp_path / "out"), "--data", pack, "--json")
    document = told(distill("export", "models:/arcface-student@champion", *options, home=swept.machine.home))
    assert [file["format"] for file in document["files"]] == ["onnx", "pt2", "onnx-int8"]
    for file in document["files"]:
        assert Path(file["path"]).stat().st_size == file["size_bytes"]
        assert file["parity"]["mean_cosine"] > 0.99
    student, *others = document["formats"]
    promoted = swept.in_place["promotion"]["metrics"]["benchmark/verification_accuracy"]
    assert student["accuracy"] == pytest.approx(promoted)
    assert [other["format"] for other in others] == ["onnx", "pt2", "onnx-int8"]
    assert others[0]["accuracy"] == others[1]["accuracy"] == student["accuracy"]
