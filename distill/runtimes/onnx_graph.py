"""ONNX graphs in onnxruntime. https://onnx.ai

It knows its own operators only. Weights that are kept outside of the file must lie in its folder.

B: batch, D: width of the embedding, H: side of the image
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.errors import InputError
from distill.runtimes.base import GraphNetwork, reason


class OnnxNetwork(GraphNetwork):
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
            raise InputError(f"{self.path} cannot embed {tuple(pixels.shape)}: {reason(error)}") from error
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
        raise InputError(f"{path} is cut short or no ONNX file ({reason(error)})") from error
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
        raise InputError(f"onnxruntime cannot run {path}: {reason(error)}") from error
