"""Recognisers that come as a file of graph and weights, as networks like any other: ONNX and torch.export.

They map faces of shape (B, 3, H, H), RGB in [-1, 1], to raw embeddings of shape (B, D), on the device of the
faces, and learn nothing. A graph may want its input as (B, H, H, 3) instead, and as uint8: then it is given
pixels in 0..255, and normalises them itself.

A file may be a stranger's, so nothing of it is executed but mathematics:

- ONNX (https://onnx.ai) runs in onnxruntime, which knows its own operators only; weights that are kept
  outside of the file must lie in its folder.
- `torch.export.load` is not used. It unpickles sample inputs, constants and custom weights, opens shared
  libraries, evaluates sizes as Python expressions, looks operators up by any dotted name below `torch`, and
  runs generated code that holds names of the file's choice. Here the archive's JSON is data, its weights are
  raw bytes, and its graph is followed node by node through the operations of an allow-list.

B: batch, D: width of the embedding, H: side of the image
"""

import functools
import json
import operator
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import InputError
from distill.faces.pixels import as_bytes


class _GraphNetwork(nn.Module, ABC):
    """A network whose file says which faces it takes.

    Attributes:
        path: Its file.
        input_px: H; None where it takes any.
        embedding_dim: D; None where the file does not say.
        metadata: What the file says of itself, by name.
    """

    path: Path
    input_px: int | None
    embedding_dim: int | None
    metadata: dict[str, str]
    _fixed_batch: int | None
    _takes_bytes: bool
    _channels_last: bool

    def forward(self, images: Tensor) -> Tensor:
        """Embeds faces of shape (B, 3, H, H) in [-1, 1] as raw embeddings of shape (B, D).

        Raises:
            InputError: If the network does not take such images, or does not give one embedding for each.
        """
        px = self.input_px or images.shape[-1]
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, px, px):
            raise InputError(
                f"{self.path} takes images of shape (B, 3, {px}, {px}), got {tuple(images.shape)}"
            )
        parts = images.detach().split(self._fixed_batch or len(images))
        embedding_BD = torch.cat([self._embed_part(part) for part in parts])
        if embedding_BD.ndim != 2 or len(embedding_BD) != len(images):
            raise InputError(
                f"{self.path} must give one embedding for each of {len(images)} faces, "
                f"got an output of shape {tuple(embedding_BD.shape)}"
            )
        return embedding_BD

    def _embed_part(self, images: Tensor) -> Tensor:
        """Embeds up to `_fixed_batch` faces: a graph that wants more is given blank ones."""
        missing = (self._fixed_batch or len(images)) - len(images)
        pixels = as_bytes(images) if self._takes_bytes else images.float()
        pixels = F.pad(pixels, (0, 0) * 3 + (0, missing))
        return self._run(pixels.permute(0, 2, 3, 1) if self._channels_last else pixels)[: len(images)]

    def _read_shape(self, batch: int | None, face: list[int | None]) -> bool:
        """Takes note of the input's shape; whether it is one of faces."""
        self._channels_last = face[2] == 3 and face[0] != 3
        channels, height, width = (face[2], face[0], face[1]) if self._channels_last else face
        self._fixed_batch, self.input_px = batch, height
        return channels in (3, None) and height == width

    @abstractmethod
    def _run(self, pixels: Tensor) -> Tensor:
        """The graph's output for a batch as it takes it.

        Raises:
            InputError: If the graph fails.
        """


class OnnxNetwork(_GraphNetwork):
    """An ONNX recogniser on onnxruntime. It has no parameters; copies and pickles open the file again.

    One output is taken, (B, D): the only one, or the only one of two dimensions.

    Args:
        path: The file.
        num_threads: That one call uses. None: as many as torch has now.
        device: Where the graph runs: `cpu` or `cuda`.

    Raises:
        InputError: If the file is missing, empty, cut short or no ONNX; if its weights lie outside of its
            folder; if it does not map faces to embeddings; if onnxruntime cannot run it there.
    """

    def __init__(self, path: Path | str, *, num_threads: int | None = None, device: str = "cpu"):
        super().__init__()
        self.path = Path(path)
        self._reopened = functools.partial(OnnxNetwork, self.path, num_threads=num_threads, device=device)
        _check_onnx(self.path)
        self._session = _session(self.path, num_threads=num_threads or torch.get_num_threads(), device=device)
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self._read_input()
        self._read_output()
        self.eval()

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopened, ()

    def _read_input(self) -> None:
        inputs = self._session.get_inputs()
        described = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        refusal = InputError(
            f"{self.path} must have one input of faces, float32 or uint8, (B, 3, H, H) or (B, H, H, 3), "
            f"got {described or 'none'}"
        )
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise refusal
        (images,) = inputs
        self._input_name = images.name
        self._takes_bytes = images.type == "tensor(uint8)"
        batch, *face = (size if isinstance(size, int) else None for size in images.shape)
        if not (self._takes_bytes or images.type == "tensor(float)") or not self._read_shape(batch, face):
            raise refusal

    def _read_output(self) -> None:
        outputs = self._session.get_outputs()
        # A shape that onnxruntime cannot infer is empty; the only output is then judged when it runs.
        found = [o for o in outputs if len(o.shape) == 2] or [o for o in outputs if not o.shape]
        if len(found) != 1:
            described = ", ".join(f"{o.name} {o.shape}" for o in outputs)
            raise InputError(f"{self.path} must have one output of embeddings, (B, D), got {described}")
        (embedding,) = found
        self._output_name = embedding.name
        width = embedding.shape[1] if embedding.shape else None
        self.embedding_dim = width if isinstance(width, int) else None

    def _run(self, pixels: Tensor) -> Tensor:
        fed = {self._input_name: pixels.cpu().contiguous().numpy()}
        try:
            (embedding_BD,) = self._session.run([self._output_name], fed)
        except Exception as error:  # onnxruntime's errors have no class in common
            raise InputError(f"{self.path} cannot embed {tuple(pixels.shape)}: {_reason(error)}") from error
        return torch.from_numpy(embedding_BD).to(pixels.device)


def _check_onnx(path: Path) -> None:
    """Refuses what is no ONNX file, and weights outside of its folder, before onnxruntime opens either."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise InputError(f"{path} is not a file")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise InputError(f"{path} is cut short or no ONNX file ({_reason(error)})") from error
    if not model.graph.node:
        raise InputError(f"{path} is empty or no ONNX file: it has no graph")
    folder = path.resolve().parent
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        weights = (folder / location).resolve()
        if not weights.is_relative_to(folder):
            raise InputError(
                f"{path} is refused: its weights {tensor.name} lie outside of its folder, in {location}"
            )
        if not weights.is_file():
            raise InputError(f"{path} needs the file {location} beside it, which is missing")


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor of an ONNX model: initialisers and constants, those of its subgraphs and functions too."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else (value,):
            if field.message_type.name == "TensorProto":
                yield inner
            else:
                yield from _tensors(inner)


def _session(path: Path, *, num_threads: int, device: str) -> Any:
    import onnxruntime

    providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    if device not in providers or providers[device] not in onnxruntime.get_available_providers():
        raise InputError(f"onnxruntime runs ONNX on cpu or cuda, where it has them; it has no {device} here")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Threads that spin between calls would take the cores from torch's, which works in turn with them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[providers[device]])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise InputError(f"onnxruntime cannot run {path}: {_reason(error)}") from error


def load_exported(path: Path | str) -> "ExportedNetwork":
    """Reads a `torch.export` archive (`.pt2`), of one image input and one output of embeddings.

    Args:
        path: The file, as `torch.export.save` of torch 2.10 or later writes it for one network.

    Returns:
        A network in evaluation mode whose weights are frozen, with the attributes `path`, `input_px`,
        `embedding_dim` and `metadata`. It maps faces of shape (B, 3, H, H) in [-1, 1] to raw embeddings of
        shape (B, D).

    Raises:
        InputError: If it is no such archive, is damaged, or asks for anything but the mathematics of a
            network. Nothing of it was executed.
    """
    return ExportedNetwork(Path(path))


@dataclass(frozen=True)
class _Value:
    """Stands in a node's arguments for what an earlier node gave."""

    name: str


class _Device:
    """Stands in a node's arguments for the device of the faces."""


@dataclass(frozen=True)
class _Step:
    """One node of a graph: `outputs` are called what `target` makes of the arguments."""

    target: str
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: list[Any]
    """Names; a list of names where one output is a list."""
    finished: list[str]
    """Names that no later step needs."""


class ExportedNetwork(_GraphNetwork):
    """The graph of a torch.export archive, followed node by node. See `load_exported`."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        with _Archive(path) as archive:
            self.metadata = archive.json(_METADATA) if archive.has(_METADATA) else {}
            program = archive.json("models/model.json")
            try:
                self._read(program["graph_module"], archive)
            except InputError:
                raise
            except Exception as error:  # what is not JSON as torch writes it may fail in any way
                raise InputError(
                    f"{path} does not describe a network as torch.export does ({_reason(error)})"
                ) from error
        self.eval()

    def _read(self, module: dict[str, Any], archive: "_Archive") -> None:
        graph = module["graph"]
        tensors = archive.tensors("weights") | archive.tensors("constants")
        self._stored_as = {}
        faces = []
        for spec in module["signature"]["input_specs"]:
            ((kind, content),) = spec.items()
            if kind in _STORED_INPUTS:
                stored = f"{kind}_{len(self._stored_as)}"
                tensor = tensors[content[_STORED_INPUTS[kind]]]
                if kind == "parameter":
                    self.register_parameter(stored, nn.Parameter(tensor, requires_grad=False))
                else:
                    self.register_buffer(stored, tensor)
                self._stored_as[content["arg"]["name"]] = stored
            elif kind == "user_input" and "as_tensor" in content["arg"]:
                faces.append(content["arg"]["as_tensor"]["name"])
            else:
                raise InputError(f"{self.path} is refused: it has an input of the kind {kind}")
        if [kind for spec in module["signature"]["output_specs"] for kind in spec] != ["user_output"]:
            raise InputError(
                f"{self.path} must give one output and change nothing (export it in evaluation mode)"
            )
        outputs = graph["outputs"]
        if len(faces) != 1 or len(outputs) != 1:
            raise InputError(
                f"{self.path} must map one input of faces to one output, has {len(faces)} and {len(outputs)}"
            )
        (self._faces,) = faces
        self._embedding = _argument(outputs[0], self.path).name
        batch, *face = _sizes(graph, self._faces)
        _, self.embedding_dim = _sizes(graph, self._embedding)
        dtype = _DTYPES[graph["tensor_values"][self._faces]["dtype"]]
        self._takes_bytes = dtype == torch.uint8
        if not (self._takes_bytes or dtype == torch.float32) or not self._read_shape(batch, face):
            raise InputError(
                f"{self.path} must take faces, float32 or uint8, (B, 3, H, H) or (B, H, H, 3), "
                f"takes {dtype} {[batch, *face]}"
            )
        self._steps = self._ordered(graph["nodes"])

    def _ordered(self, nodes: list[dict[str, Any]]) -> list[_Step]:
        """The steps, each with what it is the last to need."""
        steps: list[_Step] = []
        needed = {self._embedding}
        for node in reversed(nodes):
            _operation(node["target"], self.path)  # refuses what is not allowed before anything runs
            named = [(i.get("kind"), i["name"], _argument(i["arg"], self.path)) for i in node["inputs"]]
            outputs = [_argument(output, self.path) for output in node["outputs"]]
            used = set(_names([value for _, _, value in named])) | set(_names(outputs))
            steps.append(
                _Step(
                    target=node["target"],
                    args=[value for kind, _, value in named if kind != _KEYWORD],
                    kwargs={name: value for kind, name, value in named if kind == _KEYWORD},
                    outputs=outputs,
                    finished=sorted(used - needed),
                )
            )
            needed |= used
        return steps[::-1]

    def _run(self, pixels: Tensor) -> Tensor:
        values: dict[str, Any] = {name: getattr(self, stored) for name, stored in self._stored_as.items()}
        values[self._faces] = pixels
        try:
            for step in self._steps:
                args, kwargs = (_filled(part, values, pixels.device) for part in (step.args, step.kwargs))
                result = _operation(step.target, self.path)(*args, **kwargs)
                if step.outputs:  # an assertion has none
                    _store(step.outputs[0] if len(step.outputs) == 1 else step.outputs, result, values)
                for name in step.finished:
                    del values[name]
            return values[self._embedding]
        except Exception as error:  # a graph that does not fit together may fail in any way
            raise InputError(f"{self.path} cannot embed {tuple(pixels.shape)}: {_reason(error)}") from error


_STORED_INPUTS = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}
_METADATA = "extra/metadata.json"
_KEYWORD = 2
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_LAYOUTS = {7: torch.strided}

_SIZE_ARITHMETIC: Mapping[str, Any] = {
    f"_operator.{function.__name__}": function
    for function in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.getitem)
}
_OPERATIONS_OF_NETWORKS = (
    # convolutions and what is linear
    "conv1d conv2d conv_transpose2d convolution linear matmul mm bmm addmm baddbmm einsum",
    # normalisations
    "batch_norm group_norm instance_norm layer_norm linalg_vector_norm norm rms_norm",
    "_native_batch_norm_legit_no_training native_group_norm native_layer_norm",
    # activations
    "celu dropout elu feature_dropout gelu hardsigmoid hardswish hardswish_ hardtanh hardtanh_ leaky_relu",
    "leaky_relu_ log_softmax mish prelu _prelu_kernel relu relu6 relu6_ relu_ selu sigmoid sigmoid_ silu",
    "silu_ softmax _softmax softplus tanh threshold",
    # pools, margins and enlargement
    "adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d avg_pool1d avg_pool2d",
    "max_pool1d max_pool2d max_pool2d_with_indices pad constant_pad_nd pixel_shuffle upsample_bilinear2d",
    "upsample_nearest2d",
    # attention
    "scaled_dot_product_attention",
    # element by element
    "abs add add_ clamp clamp_ clamp_max clamp_min cos div div_ exp log maximum minimum mul mul_ neg pow",
    "reciprocal rsqrt rsub sin sqrt square sub sub_ where eq ge gt le lt ne logical_not",
    # over a dimension
    "amax amin argmax cumsum max mean min std sum var",
    # shapes and types
    "alias cat chunk clone contiguous detach expand expand_as flatten flip index_select lift_fresh_copy",
    "movedim mT narrow permute repeat reshape roll select slice split split_with_sizes squeeze stack",
    "sym_size t to _to_copy transpose unbind unflatten unsqueeze _unsafe_view view view_as",
    "_assert_tensor_metadata",
    # new tensors
    "arange full full_like new_ones new_zeros ones ones_like zeros zeros_like",
)
_MATHEMATICS = frozenset(name for line in _OPERATIONS_OF_NETWORKS for name in line.split())
"""What of aten a recogniser is made of. None of it reads or writes anything but the tensors it is given."""


@functools.cache
def _operation(target: str, path: Path) -> Any:
    if target in _SIZE_ARITHMETIC:
        return _SIZE_ARITHMETIC[target]
    match target.split("."):
        case ["torch", "ops", "aten", name, overload] if name in _MATHEMATICS:
            operation = getattr(getattr(torch.ops.aten, name), overload, None)
            if isinstance(operation, torch._ops.OpOverload):
                return operation
    raise InputError(
        f"{path} is refused: it asks for {target}, which is none of the mathematics of a network"
    )


def _argument(argument: dict[str, Any], path: Path) -> Any:
    """What a node is given: plain values, and `_Value` for what comes from elsewhere."""
    ((kind, content),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_ints" | "as_float" | "as_floats" | "as_bool" | "as_bools" | "as_string":
            return content
        case "as_tensor":
            return _Value(content["name"])
        case "as_name":
            return _Value(content)
        case "as_tensors":
            return [_Value(tensor["name"]) for tensor in content]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool" | "as_optional_tensor":
            return _argument(content, path)
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools" | "as_optional_tensors":
            return [_argument(item, path) for item in content]
        case "as_scalar_type":
            return _DTYPES[content]
        case "as_memory_format":
            return _MEMORY_FORMATS[content]
        case "as_layout":
            return _LAYOUTS[content]
        case "as_device":
            return _Device()
    raise InputError(f"{path} is refused: a node of its graph is given something {kind}")


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, _Value):
        yield value.name
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)


def _filled(value: Any, values: dict[str, Any], device: torch.device) -> Any:
    match value:
        case _Value(name):
            return values[name]
        case _Device():
            return device
        case list():
            return [_filled(item, values, device) for item in value]
        case dict():
            return {name: _filled(item, values, device) for name, item in value.items()}
    return value


def _store(outputs: Any, result: Any, values: dict[str, Any]) -> None:
    if isinstance(outputs, _Value):
        values[outputs.name] = result
    elif isinstance(outputs, list):
        for output, part in zip(outputs, result, strict=True):
            _store(output, part, values)


def _sizes(graph: dict[str, Any], name: str) -> list[int | None]:
    """Shape of a tensor of the graph; None where it is not fixed."""
    return [size.get("as_int") for size in graph["tensor_values"][name]["sizes"]]


class _Archive:
    """The members of a torch.export archive, read as text and as raw bytes.

    torch stores members as they are. Compressed ones are refused, so that nothing grows beyond the file.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(
                f"{path} is cut short or no archive of torch.export ({_reason(error)})"
            ) from error
        self._path = path
        self._members = {info.filename.partition("/")[2]: info for info in self._zip.infolist()}

    def __enter__(self) -> "_Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def has(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        info = self._members.get(name)
        if info is None:
            raise InputError(
                f"{self._path} is cut short or no archive of torch.export 2.10 or later: it has no {name}"
            )
        if info.compress_type != zipfile.ZIP_STORED:
            raise InputError(
                f"{self._path} is refused: its member {name} is compressed, which torch never does"
            )
        try:
            return self._zip.read(info)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise InputError(f"{self._path} is damaged in its member {name} ({_reason(error)})") from error

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{self._path} is damaged in its member {name} ({_reason(error)})") from error

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Every tensor of `kind`, weights or constants, by the name that the graph has for it."""
        config = self.json(f"data/{kind}/model_{kind}_config.json")["config"]
        return {name: self._tensor(name, payload, folder=f"data/{kind}") for name, payload in config.items()}

    def _tensor(self, name: str, payload: dict[str, Any], *, folder: str) -> Tensor:
        meta = payload["tensor_meta"]
        if payload["use_pickle"] or meta is None:
            raise InputError(f"{self._path} is refused: its tensor {name} is a pickle, which could execute")
        dtype = _DTYPES[meta["dtype"]]
        shape, stride = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        if 0 in shape:
            return torch.zeros(shape, dtype=dtype)
        raw = bytearray(self.read(f"{folder}/{payload['path_name']}"))
        flat = torch.frombuffer(raw, dtype=dtype)
        return flat.as_strided(shape, stride, meta["storage_offset"]["as_int"]).contiguous()


def _reason(error: Exception) -> str:
    """The first line of an error, without onnxruntime's own preamble."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed:)?", "", line)
