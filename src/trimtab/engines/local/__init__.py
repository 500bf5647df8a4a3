"""The embedded engine: PyTorch and transformers, on a CPU or a GPU."""

from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.loading import load_engine

__all__ = ["LocalEngine", "load_engine"]
