"""Whether tensors from a file are those of a network: all of them, and no others."""

from collections.abc import Iterable, Mapping

from torch import Tensor


def misfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Why tensors do not fill a network whose state is `expected`, for a sentence; None if they do."""
    missing, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or unknown:
        return f"it lacks {some(missing)} and has {some(unknown)} too many"
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            return f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
    return None


def some(names: Iterable[str]) -> str:
    """The first names in their order and how many more there are, for a sentence."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:3]) or "nothing"
    return f"{shown} and {len(ordered) - 3} more" if len(ordered) > 3 else shown
