"""A student as users ship it: one file that needs none of this code.

- `onnx`: for ONNX Runtime and what else reads ONNX, on phones and servers. https://onnx.ai
- `pt2`: a torch.export archive, for torch without this code. `distill.runtimes.load_exported` reads it.
- `onnx-int8`: ONNX whose convolutions and linear layers calculate in 8 bits, with scales calibrated on faces:
  one for each activation, and one for each channel of a weight. Jacob et al., "Quantization and Training of
  Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018. https://arxiv.org/abs/1712.05877

Every file takes any number of faces at a time, says in its metadata which, and is compared with the student
on real faces before it is left anywhere.

B: batch, D: width of the embedding, N: faces, H: side of the image, R: repeats of a measurement
"""

import copy
import functools
import importlib.metadata
import json
import logging
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.checkpoint import StudentCard
from distill.errors import InputError, RefusedError
from distill.evaluation import evaluate_verification, static_efficiency
from distill.evaluation.efficiency import BATCH_SIZES
from distill.evaluation.mode import evaluating
from distill.faces import VerificationPairs
from distill.faces.pixels import as_floats
from distill.runtimes import ExportedNetwork, OnnxNetwork, load_exported

Format = Literal["onnx", "pt2", "onnx-int8"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES: dict[Format, str] = {
    "onnx": "student.onnx",
    "pt2": "student.pt2",
    "onnx-int8": "student.int8.onnx",
}
"""What each format's file is called in a folder of them."""
Preprocessing = Literal["metadata", "graph"]

OPSET, IR_VERSION = 18, 8
"""The oldest that torch's exporter writes without a conversion: runtimes on phones lag behind by years.

ONNX Runtime reads both since 1.14, of February 2023.
"""
LEAST_COSINE = 0.9999
"""Of every face's embedding with the student's, in a format that calculates in float32."""
LEAST_MEAN_COSINE_INT8 = 0.99
"""Of the embeddings' mean over faces. A single face may lie lower, which `Parity.min_cosine` tells."""
_CALIBRATION_FACES, _CALIBRATION_BATCH = 256, 16
_BATCH = 64
_SHORTEST_REPEAT_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How near a file's embeddings are to the student's: cosines over `num_faces` faces."""

    min_cosine: float
    mean_cosine: float
    num_faces: int


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A file that was written, and how it compares with the student."""

    format: Format
    path: Path
    size_bytes: int
    parity: Parity


@dataclass(frozen=True, kw_only=True)
class FormatFacts:
    """What a format costs and is worth.

    Attributes:
        format: `pytorch` is the student itself.
        size_bytes: Of the file; of all tensors where it is the student itself.
        accuracy: Ten-fold verification accuracy.
        faces_per_second: On one CPU thread, median of the repeats, by the number of faces at a time.
    """

    format: str
    size_bytes: int
    accuracy: float
    faces_per_second: dict[int, float]


class FromPixels(nn.Module):
    """A student with its normalisation: takes RGB pixels as a phone's bitmap has them, uint8 (B, H, H, 3)."""

    def __init__(self, student: nn.Module):
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        """Embeds pixels in 0..255 of shape (B, H, H, 3) as raw embeddings of shape (B, D)."""
        return self.student(as_floats(images.permute(0, 3, 1, 2)))


def export(
    student: nn.Module,
    card: StudentCard,
    out: Path,
    *,
    format: Format,
    faces: Tensor,
    preprocessing: Preprocessing = "metadata",
) -> ExportResult:
    """Writes a student as one file. It replaces `out` once it has been found to embed as the student does.

    Args:
        student: On the CPU; comes back in the mode that it was in.
        card: What is known of it.
        out: The file.
        format: The file's format.
        faces: Real faces, RGB, uint8, of shape (N, 3, H, H). The file is compared on all of them, and 8 bits
            are calibrated on the first 256.
        preprocessing: With `metadata` the file takes float32 (B, 3, H, H) in [-1, 1], and its metadata say
            how to get there. With `graph` it takes uint8 (B, H, H, 3), pixels in 0..255 as they lie in a
            bitmap, and normalises them itself.

    Raises:
        InputError: If the faces do not fit the student, a folder is in the place of `out`, or a file in that
            of its folder.
        RefusedError: If the file embeds otherwise than the student. Then `out` is as it was.
    """
    return _Export(student, card, faces, preprocessing).write(out, format)


def export_all(
    student: nn.Module,
    card: StudentCard,
    folder: Path,
    *,
    formats: Sequence[Format] = FORMATS,
    faces: Tensor,
    preprocessing: Preprocessing = "metadata",
) -> tuple[list[ExportResult], list[RefusedError]]:
    """Writes a student in several formats, as the `FILES` of a folder, and draws its graph once for all.

    Arguments and InputError are those of `export`.

    Returns:
        What was written, and why the rest was not: a format that is refused leaves the others.
    """
    drawn = _Export(student, card, faces, preprocessing)
    results, refusals = [], []
    for format in formats:
        try:
            results.append(drawn.write(folder / FILES[format], format))
        except RefusedError as refusal:
            refusals.append(refusal)
    return results, refusals


def parity(student: nn.Module, exported: nn.Module, faces: Tensor) -> Parity:
    """Compares raw embeddings of the same faces.

    Args:
        student, exported: Map faces (B, 3, H, H) in [-1, 1] to embeddings (B, D).
        faces: RGB, uint8, of shape (N, 3, H, H).
    """
    with evaluating(student), evaluating(exported):
        cosine_N = torch.cat(
            [
                F.cosine_similarity(student(images).double(), exported(images).double())
                for images in map(as_floats, faces.split(_BATCH))
            ]
        )
    return Parity(
        min_cosine=cosine_N.min().item(), mean_cosine=cosine_N.mean().item(), num_faces=len(cosine_N)
    )


def compare_formats(
    student: nn.Module,
    card: StudentCard,
    results: Sequence[ExportResult],
    pairs: VerificationPairs,
    *,
    repeats: int = 9,
) -> list[FormatFacts]:
    """Measures the student and the files that were made of it, side by side.

    The repeats of a measurement take turns, so that a machine that becomes busy slows all of them.

    Args:
        pairs: Of the student's size.
        repeats: Timings of each at each number of faces, each of at least 20 ms. The median is told.

    Returns:
        The student first, then each of `results`.
    """
    networks = [student, *(_opened(result.path, result.format, num_threads=1) for result in results)]
    weights = static_efficiency(student, size_px=card.size_px)["efficiency/weight_bytes"]
    rates = {batch: _faces_per_second(networks, card.size_px, batch, repeats) for batch in BATCH_SIZES}
    return [
        FormatFacts(
            format=name,
            size_bytes=size_bytes,
            accuracy=evaluate_verification(network, pairs, prefix="pairs")["pairs/verification_accuracy"],
            faces_per_second={batch: rate[index] for batch, rate in rates.items()},
        )
        for index, (network, name, size_bytes) in enumerate(
            zip(
                networks,
                ["pytorch", *(result.format for result in results)],
                [int(weights), *(result.size_bytes for result in results)],
                strict=True,
            )
        )
    ]


def _about(card: StudentCard, preprocessing: Preprocessing) -> dict[str, str]:
    """What a file says of itself. An input is (pixel - mean) / std of pixels in 0..255."""
    in_graph = preprocessing == "graph"
    return {
        "color": "RGB",
        "layout": "NHWC" if in_graph else "NCHW",
        "dtype": "uint8" if in_graph else "float32",
        "size_px": str(card.size_px),
        "mean": "0" if in_graph else "127.5",
        "std": "1" if in_graph else "127.5",
        "embedding_dim": str(card.embedding_dim),
        "student": card.student.name,
        "student_sha256": card.sha256,
        "teacher_digest": card.teacher_digest,
        "made_by": f"face-distillation-sweeps {importlib.metadata.version('face-distillation-sweeps')}",
    }


class _Export:
    """A student whose graph is drawn once, however many files are made of it. See `export`."""

    def __init__(self, student: nn.Module, card: StudentCard, faces: Tensor, preprocessing: Preprocessing):
        expected = (3, card.size_px, card.size_px)
        if faces.dtype != torch.uint8 or tuple(faces.shape[1:]) != expected or not len(faces):
            raise InputError(
                f"faces must be uint8 of shape (N, {', '.join(map(str, expected))}), "
                f"got {faces.dtype} of shape {tuple(faces.shape)}"
            )
        self._student, self._faces, self._about = student, faces, _about(card, preprocessing)
        images = faces[:_CALIBRATION_FACES]
        in_graph = preprocessing == "graph"
        self._network = FromPixels(student) if in_graph else student
        self._images = images.permute(0, 2, 3, 1) if in_graph else as_floats(images)

    def write(self, out: Path, format: Format) -> ExportResult:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(
                f"{out.parent} cannot be a folder of files: there is a file in its place"
            ) from None
        if out.is_dir():
            raise InputError(f"{out} cannot be a file: there is a folder in its place")
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
            fresh = Path(folder) / FILES[format]
            with _quiet():
                self._write_fresh(fresh, format)
            found = parity(self._student, _opened(fresh, format), self._faces)
            _check(found, format=format)
            os.replace(fresh, out)
        return ExportResult(format=format, path=out, size_bytes=out.stat().st_size, parity=found)

    def _write_fresh(self, path: Path, format: Format) -> None:
        match format:
            case "pt2":
                about = {"metadata.json": json.dumps(self._about)}
                torch.export.save(self._program, path, extra_files=about)
            case "onnx":
                _save(self._onnx, path, self._about)
            case "onnx-int8":
                _save(_quantized(self._onnx, self._images), path, self._about)

    @functools.cached_property
    def _program(self) -> torch.export.ExportedProgram:
        # An example of one face would fix the batch at one.
        example = torch.zeros(2, *self._images.shape[1:], dtype=self._images.dtype)
        with evaluating(self._student):
            self._network.eval()
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(self._network, (example,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        return program

    @functools.cached_property
    def _onnx(self) -> Any:
        with torch.no_grad():
            return _onnx(self._program)


def _onnx(program: torch.export.ExportedProgram) -> Any:
    """The program as an ONNX model that tells nothing of this machine."""
    import onnx

    converted = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["embeddings"],
        verbose=False,
    )
    assert converted is not None
    model = converted.model_proto
    model.ir_version = IR_VERSION
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]  # stack traces, with paths of this machine; no part of this IR version
    del graph.value_info[:]  # sizes of what is in between, which every runtime infers
    for end in (*graph.input, *graph.output):
        end.type.tensor_type.shape.dim[0].dim_param = "batch"
    _spell_out_prelus(graph)
    onnx.checker.check_model(model, full_check=True)
    return model


def _spell_out_prelus(graph: Any) -> None:
    """Replaces a PReLU of slope a by a x + (1 - a) relu(x), which is the same.

    ONNX Runtime's own PRelu took 80 % of a MobileFaceNet's time on a CPU: without it 128 faces at a time were
    embedded five times as fast. What is spelt out, every runtime vectorises.
    """
    from onnx import helper, numpy_helper

    slopes = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        (x, slope), (y,) = node.input, node.output
        complement = numpy_helper.from_array(1 - numpy_helper.to_array(slopes[slope]), f"{y}_complement")
        graph.initializer.append(complement)
        for op_type, inputs, output in (
            ("Mul", [x, slope], f"{y}_sloped"),
            ("Relu", [x], f"{y}_positive"),
            ("Mul", [f"{y}_positive", complement.name], f"{y}_rest"),
            ("Add", [f"{y}_sloped", f"{y}_rest"], y),
        ):
            nodes.append(helper.make_node(op_type, inputs, [output], name=f"{output}_{op_type}"))
    del graph.node[:]
    graph.node.extend(nodes)


def _quantized(model: Any, images: Tensor) -> Any:
    """The model with convolutions and linear layers in 8 bits, scaled to what `images` make of it.

    The first convolution and the depthwise ones stay in float32. They have few weights, but their channels
    differ most in range: on a MobileFaceNet of the embedded world the mean cosine with the student rose from
    0.990 to 0.995 by it, and a face at a time became no slower. An activation's range is the mean of its
    ranges over batches, which single outliers widen less than they do the range of all: 0.982 to 0.990.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(images.split(_CALIBRATION_BATCH))

        def get_next(self) -> Any:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    whole = convolutions[:1] + [
        c for c in convolutions if any(a.name == "group" and a.i > 1 for a in c.attribute)
    ]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "quantized.onnx"
        quantize_static(
            copy.deepcopy(model),  # it moves the weights out of what it is given
            written,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=[node.name for node in whole],
            extra_options={"CalibMovingAverage": True},
        )
        return onnx.load(written)


def _save(model: Any, path: Path, about: dict[str, str]) -> None:
    from onnx import helper

    helper.set_model_props(model, about)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _opened(path: Path, format: Format, *, num_threads: int | None = None) -> OnnxNetwork | ExportedNetwork:
    return load_exported(path) if format == "pt2" else OnnxNetwork(path, num_threads=num_threads)


def _check(found: Parity, *, format: Format) -> None:
    what, cosine, least = (
        ("mean", found.mean_cosine, LEAST_MEAN_COSINE_INT8)
        if format == "onnx-int8"
        else ("least", found.min_cosine, LEAST_COSINE)
    )
    if not cosine >= least:  # NaN is refused too
        raise RefusedError(
            f"the {format} file does not embed as the student does: over {found.num_faces} faces the {what} "
            f"cosine must be at least {least}, is {cosine:.5f} "
            f"(mean {found.mean_cosine:.5f}, least {found.min_cosine:.5f})"
        )


def _faces_per_second(networks: Sequence[nn.Module], size_px: int, batch: int, repeats: int) -> list[float]:
    """Median rate of each network on one thread; the networks take turns."""
    faces = torch.rand(batch, 3, size_px, size_px, generator=torch.Generator().manual_seed(0)) * 2 - 1
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for network in networks:
            _seconds(network, faces, calls=1)  # allocates
        calls = [math.ceil(_SHORTEST_REPEAT_S / _seconds(network, faces, calls=1)) for network in networks]
        turns = [
            [
                _seconds(network, faces, calls=number) / number
                for network, number in zip(networks, calls, strict=True)
            ]
            for _ in range(repeats)
        ]
    finally:
        torch.set_num_threads(num_threads)
    return [batch / statistics.median(seconds_R) for seconds_R in zip(*turns, strict=True)]


def _seconds(network: nn.Module, faces: Tensor, *, calls: int) -> float:
    with evaluating(network):
        start = time.perf_counter()
        for _ in range(calls):
            network(faces)
        return time.perf_counter() - start


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what torch and onnxruntime say to their own developers, which is no news of the file.

    torch 2.13 warns of its own tree specifications, and that torchvision is absent; onnxruntime recommends a
    clean-up of the graph that torch's exporter has done.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
