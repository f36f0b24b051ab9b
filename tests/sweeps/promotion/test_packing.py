"""What is registered is small, and loads where this project is not installed."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import distill
from distill.checkpoint import load_student, save_student
from distill.students import BridgeTinySettings
from sweeps.promotion import Candidate
from sweeps.promotion.packing import MODEL_CARD, pack

ELSEWHERE = """
import json, sys
sys.path = [path for path in sys.path if path not in json.loads(sys.argv[3])]
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
embeddings = model.predict(np.load(sys.argv[2]))
import distill
print(json.dumps({"embeddings": embeddings.tolist(), "code": distill.__file__}))
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, candidate: Candidate) -> Path:
    """A model as a promotion packs it, beside its student."""
    root = tmp_path_factory.mktemp("packed")
    settings = BridgeTinySettings()
    torch.manual_seed(0)
    card = save_student(
        settings.build(embedding_dim=8, size_px=16),
        root / "student",
        student=settings,
        embedding_dim=8,
        size_px=16,
        epoch=1,
        metrics={},
        teacher_digest="a" * 64,
    )
    pack(dataclasses.replace(candidate, card=card, folder=root / "student"), "# a card\n", root / "model")
    return root / "model"


def test_a_model_is_its_student_and_the_code_that_loads_it(packed: Path) -> None:
    names = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    data = {name.rpartition("/")[2] for name in names if name.startswith("data/")}
    assert data == {"student.safetensors", "student.json", MODEL_CARD}
    code = {name for name in names if name.startswith("code/")}
    students = {path.name for path in (Path(distill.__file__).parent / "students").glob("*.py")}
    assert code == {
        *(f"code/distill/{name}.py" for name in ("__init__", "checkpoint", "errors", "serving", "settings")),
        *(f"code/distill/students/{name}" for name in students),
    }
    assert len(names) < 30  # a server takes a request for each
    assert sum((packed / name).stat().st_size for name in code) < 500_000


@pytest.mark.slow
def test_a_model_loads_where_this_project_is_not_installed(packed: Path, tmp_path: Path) -> None:
    faces = np.random.default_rng(0).uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "faces.npy", faces)
    here = Path(distill.__file__).parents[1]
    projects = [path for path in sys.path if (Path(path) / "distill").is_dir()]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ELSEWHERE,
            packed,
            tmp_path / "faces.npy",
            json.dumps([*projects, str(here), ""]),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert Path(told["code"]).is_relative_to(packed)
    student, _ = load_student(packed.parent / "student")
    with torch.inference_mode():
        expected = student(torch.from_numpy(faces)).numpy()
    np.testing.assert_allclose(np.array(told["embeddings"]), expected, atol=1e-5)
