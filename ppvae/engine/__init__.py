"""The training step: one computation, in the form that the machine runs fastest."""

from ppvae.engine.auto import AutoStep
from ppvae.engine.eager import EagerStep
from ppvae.engine.graph import CudaGraphStep, GraphStep
from ppvae.engine.shared_step import SHARED_STEPS
from ppvae.engine.svi import SVIStep

STEPS: dict[str, type[EagerStep] | type[SVIStep]] = {
    "auto": AutoStep,
    "eager": EagerStep,
    "graph": GraphStep,
    "cudagraph": CudaGraphStep,
    "pyro": SVIStep,
}
"""The modes of `--engine`."""

__all__ = ["SHARED_STEPS", "STEPS", "AutoStep", "CudaGraphStep", "EagerStep", "GraphStep", "SVIStep"]
