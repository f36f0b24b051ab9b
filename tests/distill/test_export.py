"""What users ship: each file embeds as the student does and says what it is, or is not left behind."""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from distill.checkpoint import StudentCard, load_student, save_student
from distill.cli import main
from distill.errors import InputError, RefusedError
from distill.export import (
    FILES,
    FORMATS,
    ExportResult,
    Format,
    Preprocessing,
    compare_formats,
    export,
    export_all,
    parity,
)
from distill.faces import EmbeddedFacesSettings, VerificationPairs
from distill.runtimes import ExportedNetwork, OnnxNetwork, load_exported
from distill.students import (
    AnyStudentSettings,
    BridgeTinySettings,
    GhostFaceNetSettings,
    IResNetSettings,
    MobileFaceNetSettings,
    PocketNetSettings,
    SearchableSettings,
    StudentSettings,
)

PX, DIM = 16, 12
SMALL: list[StudentSettings] = [
    GhostFaceNetSettings(width=0.5),
    IResNetSettings(width=0.25),
    MobileFaceNetSettings(width=0.25),
    PocketNetSettings(variant="m"),  # half as many cells
    SearchableSettings(activation="silu", head="pool", se1=True, se4=True),  # unlike the others
]
"""Students of other settings than their defaults."""
STUDENTS = [
    next((small for small in SMALL if type(small) is settings), settings())
    for settings in get_args(get_args(AnyStudentSettings)[0])
]
SMALL_LFW = Path(__file__).parents[1] / "data" / "small_lfw.bin"


@pytest.fixture(scope="module")
def pairs() -> VerificationPairs:
    return EmbeddedFacesSettings(size_px=PX).validation_pairs()


@pytest.fixture(scope="module")
def faces(pairs: VerificationPairs) -> Tensor:
    return pairs.images_NCHW[::30]


def made(settings: StudentSettings, folder: Path, faces: Tensor) -> tuple[nn.Module, StudentCard]:
    """A student with fresh weights, batch statistics of faces and slopes of every sign, as a folder too.

    The test is skipped where the library that the student is made of is absent.
    """
    torch.manual_seed(0)
    try:
        network = settings.build(embedding_dim=DIM, size_px=PX)
    except InputError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[2].startswith("gamma"):
                parameter.uniform_(0.5, 1)  # a LayerScale that starts next to 0 would hide its branch
        for module in network.modules():
            if isinstance(module, nn.PReLU):
                module.weight.uniform_(-0.5, 1.5)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = None  # the statistics of all faces so far: signals neither grow nor fade
        network.train()(faces.float() / 127.5 - 1)
    network.eval().requires_grad_(False)
    return network, saved(network, settings, folder)


def saved(network: nn.Module, settings: StudentSettings, folder: Path) -> StudentCard:
    return save_student(
        network,
        folder,
        student=settings,
        embedding_dim=DIM,
        size_px=PX,
        epoch=1,
        metrics={},
        teacher_digest="7" * 64,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("student") / "best"


@pytest.fixture(scope="module")
def student(folder: Path, faces: Tensor) -> tuple[nn.Module, StudentCard]:
    return made(BridgeTinySettings(), folder, faces)


Shipped = Callable[[Format, Preprocessing], ExportResult]


@pytest.fixture(scope="module")
def shipped(
    student: tuple[nn.Module, StudentCard], faces: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Shipped:
    """The student's file of a format, written once."""

    @functools.cache
    def write(format: Format, preprocessing: Preprocessing) -> ExportResult:
        out = tmp_path_factory.mktemp("shipped") / "new" / FILES[format]
        return export(*student, out, format=format, faces=faces, preprocessing=preprocessing)

    return write


def opened(path: Path) -> OnnxNetwork | ExportedNetwork:
    return load_exported(path) if path.suffix == ".pt2" else OnnxNetwork(path, num_threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", STUDENTS, ids=lambda settings: type(settings).__name__)
def test_every_student_embeds_alike_from_its_files(
    settings: StudentSettings, tmp_path: Path, faces: Tensor
) -> None:
    network, card = made(settings, tmp_path / "best", faces)
    results, refusals = export_all(network, card, tmp_path, formats=("onnx", "pt2"), faces=faces)
    assert [result.format for result in results] == ["onnx", "pt2"], refusals
    for result in results:
        assert result.path == tmp_path / FILES[result.format]
        assert result.parity.min_cosine >= 0.9999
        assert result.parity.num_faces == len(faces)
        assert result.size_bytes == result.path.stat().st_size
        exported = opened(result.path)
        for batch in (1, 3):
            images = faces[:batch].float() / 127.5 - 1
            torch.testing.assert_close(exported(images), network(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
@pytest.mark.parametrize("preprocessing", ["metadata", "graph"])
def test_a_file_embeds_alike_and_says_what_it_wants(
    format: Format,
    preprocessing: Preprocessing,
    student: tuple[nn.Module, StudentCard],
    faces: Tensor,
    shipped: Shipped,
) -> None:
    network, card = student
    path = shipped(format, preprocessing).path
    exported = opened(path)
    about = exported.metadata
    assert (about["size_px"], about["embedding_dim"], about["color"]) == (str(PX), str(DIM), "RGB")
    assert about["student_sha256"] == card.sha256
    assert about["teacher_digest"] == "7" * 64
    assert about["made_by"].startswith("face-distillation-sweeps ")
    expected = network(faces[:3].float() / 127.5 - 1)
    torch.testing.assert_close(exported(faces[:3].float() / 127.5 - 1), expected, rtol=1e-3, atol=1e-4)
    # What the metadata promise, followed by hand, without this project's reader.
    pixels = faces[:3] if about["layout"] == "NCHW" else faces[:3].permute(0, 2, 3, 1)
    given = (pixels.float() - float(about["mean"])) / float(about["std"])
    images = given.to(getattr(torch, about["dtype"])).contiguous()
    assert tuple(images.shape[1:]) == ((3, PX, PX) if preprocessing == "metadata" else (PX, PX, 3))
    if format == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        by_hand = torch.from_numpy(session.run(["embeddings"], {"images": images.numpy()})[0])
    else:
        by_hand = torch.export.load(path).module()(images)
    torch.testing.assert_close(by_hand, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_files_tell_nothing_of_the_machine_that_made_them(format: Format, shipped: Shipped) -> None:
    content = shipped(format, "metadata").path.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


@pytest.mark.parametrize("format", ["onnx", "onnx-int8"])
def test_onnx_stays_within_what_old_runtimes_read(format: Format, shipped: Shipped) -> None:
    model = onnx.load(shipped(format, "metadata").path, load_external_data=False)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert "PRelu" not in {node.op_type for node in model.graph.node}
    for end in (*model.graph.input, *model.graph.output):
        assert end.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("preprocessing", ["metadata", "graph"])
def test_eight_bits_make_a_smaller_file_that_embeds_nearly_alike(
    preprocessing: Preprocessing, shipped: Shipped
) -> None:
    whole, small = (shipped(format, preprocessing) for format in ("onnx", "onnx-int8"))
    assert small.size_bytes < 0.4 * whole.size_bytes
    assert 0.99 <= small.parity.mean_cosine < whole.parity.mean_cosine
    weights = onnx.load(small.path).graph.initializer
    # Five of six convolutions, and the linear layer.
    assert sum(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1 for tensor in weights) == 6
    assert opened(small.path).metadata == opened(whole.path).metadata


def test_parity_is_the_cosine_of_each_face() -> None:
    class Turned(nn.Module):
        """The mean of red and green, turned by 60 degrees where the face is bright."""

        def forward(self, images: Tensor) -> Tensor:
            plain = images[:, :2].mean(dim=(2, 3))
            angle = torch.pi / 3 * (images.mean(dim=(1, 2, 3)) > 0)
            x, y = plain.unbind(1)
            cos, sin = angle.cos(), angle.sin()
            return 7 * torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)

    class Plain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :2].mean(dim=(2, 3))

    faces = torch.tensor([10, 10, 10, 250], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 4, 4)
    found = parity(Plain(), Turned(), faces)
    assert found.min_cosine == pytest.approx(0.5, abs=1e-6)
    assert found.mean_cosine == pytest.approx(3.5 / 4, abs=1e-6)
    assert found.num_faces == 4


class Fickle(nn.Module):
    """Embeds otherwise while it is exported, as a network does that was changed since."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(2, 3))
        return mean if torch.compiler.is_exporting() else mean.flip(1) + 1


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_embeds_otherwise_is_not_left(
    format: Format, student: tuple[nn.Module, StudentCard], faces: Tensor, tmp_path: Path
) -> None:
    _, card = student
    out = tmp_path / FILES[format]
    out.write_text("the file of before")
    with pytest.raises(
        RefusedError, match=rf"the {format} file does not embed as the student does: over 32 "
    ):
        export(Fickle(), card, out, format=format, faces=faces)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "the file of before"


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory: pytest.TempPathFactory, faces: Tensor) -> Path:
    """The folder of a student that 8 bits cannot hold.

    One channel before the linear layer is a thousand times as strong, and weighs a thousandth: the student
    embeds as before, but next to that channel the others vanish on a scale of 256 steps.
    """
    folder = tmp_path_factory.mktemp("lopsided") / "best"
    network, _ = made(BridgeTinySettings(), folder, faces)
    last = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    last.weight[0] *= 1000
    network.get_parameter("fc.weight")[:, 0] /= 1000
    saved(network, BridgeTinySettings(), folder)
    return folder


def test_a_refused_format_leaves_the_others(lopsided: Path, faces: Tensor, tmp_path: Path) -> None:
    network, card = load_student(lopsided)
    results, refusals = export_all(network, card, tmp_path, faces=faces)
    assert [result.format for result in results] == ["onnx", "pt2"]
    assert {path.name for path in tmp_path.iterdir()} == {FILES["onnx"], FILES["pt2"]}
    (refusal,) = refusals
    assert str(refusal).startswith(
        "the onnx-int8 file does not embed as the student does: over 32 faces the "
    )


def test_a_file_is_the_same_whatever_is_written_before_it(
    student: tuple[nn.Module, StudentCard], faces: Tensor, tmp_path: Path, shipped: Shipped
) -> None:
    results, _ = export_all(*student, tmp_path, formats=("onnx-int8", "pt2", "onnx"), faces=faces)
    int8, _, whole = (result.path.read_bytes() for result in results)
    assert whole == shipped("onnx", "metadata").path.read_bytes()
    assert int8 == shipped("onnx-int8", "metadata").path.read_bytes()


def test_a_student_that_embeds_nothing_is_refused(faces: Tensor, tmp_path: Path) -> None:
    network, card = made(BridgeTinySettings(), tmp_path / "best", faces)
    nn.init.constant_(network.get_parameter("fc.bias"), torch.nan)
    with pytest.raises(RefusedError, match=r"must be at least 0\.9999, is nan"):
        export(network, card, tmp_path / "files" / "s.pt2", format="pt2", faces=faces)
    assert not list((tmp_path / "files").iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_in_the_files_place_is_the_users_mistake(
    format: Format, student: tuple[nn.Module, StudentCard], faces: Tensor, tmp_path: Path
) -> None:
    out = tmp_path / FILES[format]
    out.mkdir()
    with pytest.raises(InputError, match=rf"{re.escape(str(out))} cannot be a file: there is a folder"):
        export(*student, out, format=format, faces=faces)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_file_in_the_folders_place_is_the_users_mistake(
    student: tuple[nn.Module, StudentCard], faces: Tensor, tmp_path: Path
) -> None:
    (tmp_path / "files").write_text("a file")
    with pytest.raises(InputError, match=r"files cannot be a folder of files: there is a file in its place"):
        export(*student, tmp_path / "files" / "s.onnx", format="onnx", faces=faces)


def test_a_file_may_have_any_name(
    student: tuple[nn.Module, StudentCard], faces: Tensor, tmp_path: Path
) -> None:
    network, card = student
    out = tmp_path / "a student"
    assert export(network, card, out, format="pt2", faces=faces).path == out
    images = faces[:3].float() / 127.5 - 1
    torch.testing.assert_close(load_exported(out)(images), network(images))


def test_faces_of_another_size_are_refused(student: tuple[nn.Module, StudentCard], tmp_path: Path) -> None:
    network, card = student
    wrong = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"faces must be uint8 of shape \(N, 3, 16, 16\)"):
        export(network, card, tmp_path / "s.onnx", format="onnx", faces=wrong)


def test_a_student_comes_back_as_it_was(
    student: tuple[nn.Module, StudentCard], faces: Tensor, tmp_path: Path
) -> None:
    network, card = student
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    export(network, card, tmp_path / "s.pt2", format="pt2", faces=faces)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.eval()


def test_formats_are_measured_side_by_side(
    student: tuple[nn.Module, StudentCard], pairs: VerificationPairs, shipped: Shipped
) -> None:
    network, card = student
    result = shipped("onnx", "metadata")
    threads = torch.get_num_threads()
    itself, file = compare_formats(network, card, [result], pairs, repeats=1)
    assert (itself.format, file.format) == ("pytorch", "onnx")
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    assert (itself.size_bytes, file.size_bytes) == (weights, result.path.stat().st_size)
    assert file.accuracy == pytest.approx(itself.accuracy, abs=0.002)
    assert all(set(row.faces_per_second) == {1, 128} for row in (itself, file))
    assert all(rate > 0 for row in (itself, file) for rate in row.faces_per_second.values())
    assert torch.get_num_threads() == threads


def command(folder: Path, out: Path, *options: str) -> Result:
    """What `distill export` comes to, with ten pairs of photographs to measure accuracy on."""
    return CliRunner().invoke(
        main, ["export", str(folder), "--out", str(out), "--data", str(SMALL_LFW), *options]
    )


def test_a_student_without_files_is_measured_alone(
    student: tuple[nn.Module, StudentCard], pairs: VerificationPairs
) -> None:
    (row,) = compare_formats(*student, [], pairs, repeats=1)
    assert row.format == "pytorch"
    assert 0.5 <= row.accuracy <= 1
    assert set(row.faces_per_second) == {1, 128}


@pytest.mark.slow
def test_the_command_writes_all_formats_and_tells_of_them(
    student: tuple[nn.Module, StudentCard], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "files"
    done = command(folder, out, "--format", "all", "--preprocessing", "graph", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["data"] == str(SMALL_LFW)
    assert {path.name for path in out.iterdir()} == set(FILES.values())
    assert [row["format"] for row in told["formats"]] == ["pytorch", *FORMATS]
    itself, onnx_row, pt2_row, _ = (row["accuracy"] for row in told["formats"])
    assert itself == onnx_row == pt2_row
    assert [file["size_bytes"] for file in told["files"]] == [
        (out / FILES[format]).stat().st_size for format in FORMATS
    ]
    assert all(file["parity"]["mean_cosine"] > 0.99 for file in told["files"])


@pytest.mark.slow
def test_the_command_exits_with_3_where_a_format_is_refused(lopsided: Path, tmp_path: Path) -> None:
    done = command(lopsided, tmp_path / "files", "--format", "all", "--faces", str(SMALL_LFW), "--json")
    assert done.exit_code == 3, done.output
    assert done.stderr.startswith("the onnx-int8 file does not embed as the student does: over 17 faces the ")
    told = json.loads(done.stdout)
    assert {path.name for path in (tmp_path / "files").iterdir()} == {FILES["onnx"], FILES["pt2"]}
    assert [file["format"] for file in told["files"]] == ["onnx", "pt2"]
    assert [row["format"] for row in told["formats"]] == ["pytorch", "onnx", "pt2"]


@pytest.mark.slow
def test_where_the_only_format_is_refused_the_command_tells_of_the_student_alone(
    lopsided: Path, tmp_path: Path
) -> None:
    done = command(lopsided, tmp_path / "files", "--format", "onnx-int8")
    assert done.exit_code == 3, done.output
    assert "cosine must be at least 0.99, is " in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["format", "pytorch"]
    assert not list((tmp_path / "files").iterdir())


def test_the_command_names_a_folder_without_a_student(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["export", str(tmp_path), "--out", str(tmp_path / "files")])
    assert done.exit_code == 2
    assert "is not a student's folder" in done.stderr
