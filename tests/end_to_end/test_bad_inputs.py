"""What a user can get wrong: one clear sentence, the right exit code, no traceback, and nothing written."""

import io
import json
import os
import pickle
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from torch import Tensor

from distill.checkpoint import save_student
from distill.cli import main as distill
from distill.students import BridgeTinySettings
from distill.teachers.embedded import SHIPPED_WEIGHTS
from sweeps.cli import main as sweeps
from tests.distill.faces.packs.pictures import SMALL_LFW
from tests.distill.faces.stylegan2 import nvidia
from tests.distill.faces.stylegan2.by_hand import random_tensors
from tests.distill.faces.test_files import benchmark, pack
from tests.distill.teachers.pretrained.files import SIZE_PX, iresnet
from tests.distill.test_runtimes import onnx_model
from tests.end_to_end.machine import SPACE, Machine


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


def assert_refused(result: Result, *, code: int, sentence: str, home: Path) -> None:
    assert result.exit_code == code, result.output
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert result.output.strip().count("\n") == 0, result.output
    assert not home.exists()


def write_space(path: Path, **changes: object) -> Path:
    """The small space with some of its parts replaced."""
    space = yaml.safe_load(SPACE.read_text()) | changes
    path.write_text(yaml.safe_dump(space))
    return path


LR = {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}
BAD_SPACES = {
    "unknown key": ({"serach": {}}, "serach"),
    "low above high": ({"parameters": {"optimizer.lr": LR | {"low": 1.0}}}, "parameters.optimizer.lr"),
    "log of zero": ({"parameters": {"optimizer.lr": LR | {"low": 0.0}}}, "log"),
    "unknown parameter": ({"parameters": {"optimizer.learning_rate": LR}}, "optimizer.learning_rate"),
    "unknown student": ({"base": {"student": {"name": "mobilefacent"}}}, "mobilefacenet"),
    "unknown sampler": ({"search": {"sampler": "tpee", "num_trials": 2}}, "tpe"),
    "unknown scheduler": ({"scheduler": {"name": "ashaa"}}, "asha"),
    "no trials": ({"search": {"num_trials": 0}}, "search.num_trials"),
    "objective nobody reports": (
        {"objectives": [{"metric": "validation/accuracy", "direction": "maximize"}]},
        "validation/accuracy",
    ),
    "objective on the benchmark": (
        {"objectives": [{"metric": "benchmark/verification_accuracy", "direction": "maximize"}]},
        "benchmark/verification_accuracy",
    ),
    "gate on a metric nobody measures": (
        {"promotion": {"model": "m", "gates": [{"metric": "benchmark/acuracy", "at_least": 0.9}]}},
        "benchmark/acuracy",
    ),
    "gate without a limit": (
        {"promotion": {"model": "m", "gates": [{"metric": "benchmark/eer"}]}},
        "at_most",
    ),
    "condition on nothing": (
        {"parameters": {"optimizer.lr": LR | {"when": {"student.nam": "x"}}}},
        "student.nam",
    ),
    "negative coefficient": (
        {"base": {"method": {"name": "synthdistill", "resampling_coef": -1}}},
        "resampling_coef",
    ),
    "faces too small": ({"base": {"faces": {"name": "embedded", "size_px": 8}}}, "size_px"),
    "workers that cannot share the batch": (
        {"resources": {"workers_per_trial": 3}},
        "multiple of",
    ),
}


@pytest.mark.parametrize("case", BAD_SPACES)
def test_a_wrong_space_is_refused(case: str, tmp_path: Path, home: Path) -> None:
    changes, sentence = BAD_SPACES[case]
    if "parameters" not in changes:
        changes = {"parameters": {}} | changes
    path = write_space(tmp_path / "space.yaml", **changes)
    result = CliRunner().invoke(sweeps, ["run", str(path)])
    assert_refused(result, code=2, sentence=sentence, home=home)
    assert str(path) in result.output


def test_every_error_of_a_space_is_told_at_once(tmp_path: Path, home: Path) -> None:
    path = write_space(tmp_path / "space.yaml", parameters={"optimizer.lr": LR | {"low": 1.0}}, serach={})
    result = CliRunner().invoke(sweeps, ["validate", str(path)])
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 2
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "quickstrt"], "quickstart"),
        (["run", "nowhere/space.yaml"], "nowhere/space.yaml"),
        (["run", str(SPACE), "--set", "search.num_trials"], "--set must be A.B=C"),
        (["run", str(SPACE), "--set", "optimiser.lr=0.1"], "optimizer"),
        (["run", str(SPACE), "--name", "a/b"], "a study's name must be"),
        (["resume", "nothing"], "there is no study 'nothing'"),
        (["leaderboard", "nothing"], "there is no study 'nothing'"),
        (["status", "nothing"], "there is no study 'nothing'"),
        (["promote", "nothing"], "there is no study 'nothing'"),
        (["stop", "nothing"], "there is no study 'nothing'"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: list[str], sentence: str, home: Path) -> None:
    assert_refused(CliRunner().invoke(sweeps, arguments), code=2, sentence=sentence, home=home)


def test_a_space_that_is_no_yaml_is_refused(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("name: [unclosed")
    assert_refused(CliRunner().invoke(sweeps, ["run", str(path)]), code=2, sentence=str(path), home=home)


def bad_teacher(tmp_path: Path, case: str) -> list[str]:
    """Settings that name a teacher's file with something wrong about it."""
    weights = tmp_path / "teacher.safetensors"
    digest = json.loads(SHIPPED_WEIGHTS.with_suffix(".json").read_text())["sha256"]
    match case:
        case "missing":
            pass
        case "truncated":
            weights.write_bytes(SHIPPED_WEIGHTS.read_bytes()[:-1000])
        case "another file than was named":
            shutil.copy(SHIPPED_WEIGHTS, weights)
            digest = "0" * 64
    return ["--set", f"teacher.weights={weights}", "--set", f"teacher.sha256='{digest}'"]


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("missing", "there is no file"),
        ("truncated", "is cut short"),
        ("another file than was named", "expected 0000"),
    ],
)
def test_a_teacher_that_is_not_whole_is_refused(case: str, sentence: str, tmp_path: Path, home: Path) -> None:
    result = CliRunner().invoke(sweeps, ["run", str(SPACE), *bad_teacher(tmp_path, case)])
    assert_refused(result, code=2, sentence=sentence, home=home)


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(sweeps, ["run", str(SPACE), "--home", str(tmp_path / "file" / "home")])
    assert result.exit_code == 3
    assert "cannot be written" in result.output
    assert "Traceback" not in result.output


def test_a_port_in_use_is_refused(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(sweeps, ["ui", "--port", str(port)])
    assert_refused(result, code=3, sentence=f"127.0.0.1:{port} cannot be served on", home=home)


# ---- files of strangers ------------------------------------------------------------------------------------


class Attack:
    """Once unpickled, it leaves a file behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


GENERATOR: dict[str, Any] = {
    "resolution": 8,
    "channel_base": 1024,
    "channel_max": 8,
    "z_dim": 4,
    "c_dim": 0,
    "w_dim": 4,
    "layers": 1,
}


def torch_saved(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def teacher_file(attack: Attack | None, *, zipped: bool = True) -> bytes:
    return torch_saved({"state_dict": dict(iresnet().state_dict()), "epoch": attack or 3}, zipped=zipped)


def pack_file(attack: Attack | None) -> bytes:
    images, answers = pickle.loads(SMALL_LFW.read_bytes(), encoding="bytes")
    return pickle.dumps(([*images[:-1], attack or images[-1]], answers))


def generator_file(attack: Attack | None) -> bytes:
    network = nvidia.generator(random_tensors(**GENERATOR), **GENERATOR)
    return nvidia.written({**nvidia.snapshot(network), "training_set_kwargs": attack})


def archive_file(attack: Attack | None) -> bytes:
    """As much of a torch.export archive as is read before its weights, the only one of which is a pickle."""
    stream = io.BytesIO()
    weights = {"config": {"weight": {"path_name": "weight_0", "use_pickle": True, "tensor_meta": None}}}
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/models/model.json", json.dumps({"graph_module": {"graph": {}, "signature": {}}}))
        archive.writestr("a/data/weights/model_weights_config.json", json.dumps(weights))
        archive.writestr("a/data/weights/weight_0", pickle.dumps(attack))
    return stream.getvalue()


FILES: dict[str, tuple[Callable[[Attack | None], bytes], tuple[str, ...]]] = {
    "face.bin": (pack_file, ("evaluate", "space")),
    "teacher.pth": (teacher_file, ("space",)),
    "old-teacher.pth": (lambda attack: teacher_file(attack, zipped=False), ("space",)),
    "generator.pkl": (generator_file, ("convert",)),
    "student.pt2": (archive_file, ("evaluate", "space")),
    "student.onnx": (lambda attack: onnx_model().SerializeToString(), ("evaluate", "space")),
}
"""What makes a file, with an attack inside where one is given, and what reads it: a command, or a space."""
CASES = ("empty", "truncated", "a JPEG", "a bare attack", "an attack inside")
SPOILT = [
    (name, reader, case) for name, (_, readers) in FILES.items() for reader in readers for case in CASES
]
# An ONNX file has no place for a pickle.
SPOILT = [entry for entry in SPOILT if entry[0] != "student.onnx" or entry[2] != "an attack inside"]


def spoilt(name: str, case: str, trace: Path) -> bytes:
    """A file with something wrong about it."""
    make, _ = FILES[name]
    match case:
        case "empty":
            return b""
        case "truncated":
            whole = make(None)
            return whole[: len(whole) // 2]
        case "a JPEG":
            return b"\xff\xd8\xff\xe0" + bytes(200)
        case "a bare attack":
            return pickle.dumps(Attack(trace))
    return make(Attack(trace))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained student."""
    folder, settings = tmp_path_factory.mktemp("student") / "best", BridgeTinySettings()
    card = {"embedding_dim": 32, "size_px": 16, "epoch": 1, "metrics": {}, "teacher_digest": "0" * 64}
    save_student(settings.build(embedding_dim=32, size_px=16), folder, student=settings, **card)
    return folder


def space_of(file: Path, tmp_path: Path) -> Path:
    """A space whose teacher is a file, or whose benchmark it is, if it is a pack."""
    if file.suffix == ".bin":
        people = pack(tmp_path / "people", identities=30, images=2)
        faces = {"name": "files", "training": [{"path": str(people)}], "benchmark": {"path": str(file)}}
        base = {"faces": faces | {"size_px": 16}, "method": {"name": "sface", "num_classes": 10}}
    else:
        base = {"teacher": {"name": "pretrained", "weights": str(file), "facts": {"size_px": SIZE_PX}}}
    base["training"] = {"epochs": 1, "faces_per_epoch": 16, "batch_size": 8}
    changes = {"base": base, "parameters": {"optimizer.lr": LR}, "scheduler": {"name": "none"}}
    return write_space(tmp_path / "space.yaml", **changes)


def commands(file: Path, reader: str, student: Path, tmp_path: Path) -> list[tuple[Any, list[str]]]:
    """The commands that read a file in one way."""
    match reader:
        case "convert":
            return [(distill, ["convert", str(file), "--out", str(tmp_path / "out" / "generator")])]
        case "evaluate" if file.suffix == ".bin":
            return [(distill, ["evaluate", str(student), "--data", str(file)])]
        case "evaluate":
            return [(distill, ["evaluate", str(file), "--data", str(SMALL_LFW), "--size", "16"])]
    space = str(space_of(file, tmp_path))
    return [(sweeps, ["validate", space]), (sweeps, ["run", space])]


@pytest.mark.parametrize(("name", "reader", "case"), SPOILT)
def test_a_file_of_a_stranger_is_refused_and_executes_nothing(
    name: str, reader: str, case: str, student: Path, tmp_path: Path, home: Path
) -> None:
    trace, file = tmp_path / "trace", tmp_path / name
    file.write_bytes(spoilt(name, case, trace))
    for command, arguments in commands(file, reader, student, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        assert_refused(CliRunner().invoke(command, arguments), code=2, sentence=str(file), home=home)
        assert sorted(tmp_path.rglob("*")) == before


def test_such_an_attack_works_where_pickles_are_trusted(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    pickle.loads(spoilt("face.bin", "a bare attack", trace))
    assert trace.exists()


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in iresnet().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (without("layer2.1.conv2.weight"), "it lacks layer2.1.conv2.weight"),
        (without("fc.bias") | {"fc.bias": torch.full((20,), torch.nan)}, "fc.bias of"),
    ],
)
def test_weights_that_make_no_teacher_are_refused_before_anything_is_written(
    weights: dict[str, Tensor], sentence: str, tmp_path: Path, home: Path
) -> None:
    file = tmp_path / "teacher.pth"
    file.write_bytes(torch_saved(weights))
    result = CliRunner().invoke(sweeps, ["run", str(space_of(file, tmp_path))])
    assert_refused(result, code=2, sentence=sentence, home=home)


def test_a_benchmark_is_decoded_before_students_are_trained_for_it(tmp_path: Path, home: Path) -> None:
    images, answers = pickle.loads(benchmark(tmp_path / "lfw.bin").read_bytes())
    file = tmp_path / "benchmark.bin"
    file.write_bytes(pickle.dumps(([*images[:-1], b"\xff\xd8\xff" + bytes(50)], answers)))
    result = CliRunner().invoke(sweeps, ["run", str(space_of(file, tmp_path))])
    sentence = f"image {len(images) - 1} of {file} cannot be decoded"
    assert_refused(result, code=2, sentence=sentence, home=home)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (str(SMALL_LFW), "is not a student's folder: it is a file"),
        ("nowhere/student.onnx", "nowhere/student.onnx is not a file"),
        ("models:/nobody@champion", "there is no student at models:/nobody@champion"),
        ("hub:/somebody", "a model's address must begin with models:/, got hub:/"),
    ],
)
def test_a_model_that_is_none_is_refused(model: str, sentence: str, home: Path) -> None:
    result = CliRunner().invoke(distill, ["evaluate", model, "--data", str(SMALL_LFW)])
    assert_refused(result, code=2, sentence=sentence, home=home)


def test_a_folder_without_a_student_is_refused(tmp_path: Path, home: Path) -> None:
    result = CliRunner().invoke(distill, ["evaluate", str(tmp_path)])
    assert_refused(result, code=2, sentence="is not a student's folder", home=home)


def test_a_wrong_trial_config_is_refused(tmp_path: Path, home: Path) -> None:
    config = tmp_path / "trial.yaml"
    config.write_text("optimizer: {learning_rate: 0.1}\n")
    result = CliRunner().invoke(distill, ["train", str(config), "--out", str(tmp_path / "out")])
    assert_refused(result, code=2, sentence="optimizer.learning_rate", home=home)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_more_workers_than_cpus_are_refused(machine: Machine) -> None:
    workers = 64 * (os.cpu_count() or 1)
    done = machine.run(
        "run",
        str(SPACE),
        "--set",
        f"resources.workers_per_trial={workers}",
        "--set",
        f"training.batch_size={workers}",
        "--set",
        f"training.faces_per_epoch={workers}",
    )
    assert done.returncode == 3
    assert f"a trial takes {workers} workers" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not machine.home.exists()


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_refused(machine: Machine) -> None:
    done = machine.run("run", str(SPACE), "--address", "127.0.0.1:1")
    assert done.returncode == 3
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert not machine.home.exists()


@pytest.mark.slow
def test_a_name_that_is_taken_is_refused(swept: Machine) -> None:
    done = swept.run("run", str(SPACE), "--name", "small")
    assert done.returncode == 3
    assert "there is a study small" in done.stderr


@pytest.mark.slow
def test_a_gate_that_fails_leaves_the_registry_as_it_was(swept: Machine) -> None:
    space = swept.home / "studies" / "small" / "space.yaml"
    before = space.read_text()
    try:
        space.write_text(before.replace("at_least: 0.5", "at_least: 0.99"))
        done = swept.run("promote", "small")
    finally:
        space.write_text(before)
    assert done.returncode == 3
    assert "benchmark/verification_accuracy at least 0.99 failed with 0." in done.stderr


@pytest.mark.slow
def test_a_trial_that_does_not_exist_is_not_promoted(swept: Machine) -> None:
    done = swept.run("promote", "small", "--trial", "99")
    assert done.returncode == 2
    assert "has no trial 99" in done.stderr
