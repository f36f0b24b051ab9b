"""Recognisers that come as a file of graph and weights, as networks like any other: ONNX and torch.export.

A file may be a stranger's, so nothing of it is executed but mathematics.
"""

from distill.runtimes.exported import ExportedNetwork, load_exported
from distill.runtimes.onnx_graph import OnnxNetwork

__all__ = ["ExportedNetwork", "OnnxNetwork", "load_exported"]
