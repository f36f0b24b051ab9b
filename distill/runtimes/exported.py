"""torch.export archives (`.pt2`), followed node by node.

`torch.export.load` is not used. It unpickles sample inputs, constants and custom weights, opens shared
libraries, evaluates sizes as Python expressions, looks operators up by any dotted name below `torch`, and
runs generated code that holds names of the file's choice. Here the archive's JSON is data, its weights are
raw bytes, and its graph goes through the operations of an allow-list.

B: batch, D: width of the embedding, H: side of the image
"""

import functools
import json
import operator
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import InputError
from distill.runtimes.base import GraphNetwork, reason


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


class ExportedNetwork(GraphNetwork):
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
                    f"{path} does not describe a network as torch.export does ({reason(error)})"
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
            raise InputError(f"{self.path} cannot embed {tuple(pixels.shape)}: {reason(error)}") from error


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
                f"{path} is cut short or no archive of torch.export ({reason(error)})"
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
            raise InputError(f"{self._path} is damaged in its member {name} ({reason(error)})") from error

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{self._path} is damaged in its member {name} ({reason(error)})") from error

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
