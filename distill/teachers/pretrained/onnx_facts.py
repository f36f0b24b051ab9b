"""What an ONNX graph says of the faces that it takes, read from its file without running it."""

from pathlib import Path
from typing import Any

from distill.errors import TeacherError
from distill.teachers.pretrained.preprocessing import Facts

ARITHMETIC = {"Add", "Div", "Mul", "Sub"}


def read_onnx_facts(path: Path) -> Facts:
    """The size of the faces and of the embedding, and how pixels are scaled, as far as the graph tells.

    Exports from MXNet begin with a Sub of about 127.5 and a Mul: they scale pixels of 0 to 255 themselves.
    What other arithmetic at the beginning wants is not guessed. All others are taken for ArcFace's, which
    want [-1, 1].

    Raises:
        TeacherError: If the file is damaged, is no ONNX graph of one input, or keeps weights in other files.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError as error:
        raise TeacherError(f"teacher.weights: {path} is cut short or no ONNX file ({error})") from error
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in stored.values()):
        raise TeacherError(
            f"teacher.weights: {path} must hold all of its weights, which are in other files: save it as one"
        )
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise TeacherError(f"teacher.weights: {path} must be an ONNX graph of one input, has {len(inputs)}")
    (faces,) = inputs
    widths = [sizes[1] for value in graph.output if len(sizes := _sizes(value)) == 2]
    known = Facts(
        color_order="RGB", size_px=_side(faces), embedding_dim=widths[0] if len(widths) == 1 else None
    )
    if faces.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        # Such a graph is handed bytes, whatever it makes of them.
        return Facts(mean=127.5, std=127.5).over(known)
    first = _user_of(faces.name, graph)
    if first is None or first.op_type not in ARITHMETIC:
        return Facts(mean=127.5, std=127.5).over(known)
    second = _user_of(first.output[0], graph)
    operand = stored.get(first.input[1])
    centre = 0.0 if operand is None else float(onnx.numpy_helper.to_array(operand).mean())
    if first.op_type == "Sub" and 100 < centre < 156 and second is not None and second.op_type == "Mul":
        return Facts(mean=0.0, std=1.0).over(known)
    return known


def _side(faces: Any) -> int | None:
    """H of (B, 3, H, H) or (B, H, H, 3)."""
    match _sizes(faces):
        case [_, 3, _, side] | [_, side, _, 3] | [_, None, _, side]:
            return side
    return None


def _sizes(value: Any) -> list[int | None]:
    """Shape of an input or output; None where it is not fixed."""
    shape = value.type.tensor_type.shape
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in shape.dim]


def _user_of(name: str, graph: Any) -> Any:
    """The first node that takes a value; None if nothing does."""
    return next((node for node in graph.node if name in node.input), None)
