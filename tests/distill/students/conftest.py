"""Libraries that some students are made of, or are compared with, and that need not be there."""

from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm. Tests that take it are skipped where it cannot be imported."""
    try:
        return import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision for another torch
        pytest.skip(f"timm cannot be imported here: {error}")
