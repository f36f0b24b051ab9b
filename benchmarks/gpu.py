"""Where what is worth measuring on a GPU alone runs."""

import torch


def device_for(*, quick: bool) -> torch.device:
    """The GPU; for a toy size, whatever there is.

    Raises:
        RuntimeError: If there is no GPU and the size is the real one.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not quick:
        raise RuntimeError(
            "this is measured on a GPU, and there is none: --quick takes a toy size on the CPU"
        )
    return torch.device("cpu")
