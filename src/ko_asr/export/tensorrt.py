"""TensorRT plans of encoders: built from the ONNX graph beside them, and run to be compared with it.

One path for TensorRT 10.13 to 11: the network is strongly typed, so the precision is the graph's and the
builder has no precision flags, calibrators or layer types to set (TensorRT 11 has none left). A plan loads
only in the TensorRT version and on the kind of GPU that it was built with, so it is built where it serves,
and a record beside it says with what.

The shapes and the comparisons are in `ko_asr.export.offline.plan` and `ko_asr.export.streaming.plan`;
`ko_asr.runtime.plan_record` checks a plan in the server. Needs numpy, and ``tensorrt`` to build.
"""

import contextlib
import ctypes
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ko_asr.errors import UserError
from ko_asr.runtime.plan_record import REBUILD

WORKSPACE = 4 << 30  # bytes the builder may try tactics with

_TO_DEVICE, _FROM_DEVICE = 1, 2  # of cudaMemcpyKind
Shapes = Mapping[str, Sequence[Sequence[int]]]  # input -> least, usual and largest shape


def load_tensorrt() -> ModuleType:
    """The ``tensorrt`` module. UserError where there is none."""
    try:
        # The package that brings its libraries along, or the bindings alone on the container's own ones.
        name = "tensorrt_bindings" if importlib.util.find_spec("tensorrt") is None else "tensorrt"
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"TensorRT cannot be imported ({error}): run this inside the serving container "
            "(docker compose run --rm plan), or install requirements-gpu.txt"
        ) from error


def build_plan(trt: ModuleType, graph: Path, shapes: Shapes, workspace: int = WORKSPACE) -> bytes:
    """Compile ``graph`` for the shapes of one profile, as TensorRT or TensorRT-RTX (``trt``) does it.

    UserError names what the parser or the builder rejects.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise UserError(f"TensorRT {trt.__version__} does not take {graph}: {reasons}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    wanted = builder.create_optimization_profile()
    for name, (least, usual, largest) in shapes.items():
        wanted.set_shape(name, tuple(least), tuple(usual), tuple(largest))
    config.add_optimization_profile(wanted)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise UserError(f"TensorRT {trt.__version__} could not build {graph}: see its messages above")
    return bytes(serialized)


class PlanRunner:
    """A plan on the GPU, for comparisons: numpy in, numpy out, one batch at a time."""

    def __init__(self, trt: ModuleType, serialized: bytes) -> None:
        self.trt, self.cuda = trt, _cuda_runtime()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self._runtime.deserialize_cuda_engine(serialized)
        if self.engine is None:
            raise UserError(f"TensorRT {trt.__version__} cannot load the plan on this GPU: {REBUILD}")
        self.context = self.engine.create_execution_context()

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name. UserError when the plan's profile does not hold the inputs."""
        with contextlib.ExitStack() as stack:
            for name, value in feed.items():
                if not self.context.set_input_shape(name, value.shape):
                    raise UserError(f"the plan's profile does not hold {name} {value.shape}")
                pointer = stack.enter_context(self.memory(value.nbytes))
                self.copy(pointer, value.ctypes.data, value.nbytes, _TO_DEVICE)
                self.context.set_tensor_address(name, pointer)
            outputs: dict[str, tuple[np.ndarray, int]] = {}
            for name in self.output_names():
                shape = tuple(self.context.get_tensor_shape(name))
                value = np.empty(shape, self.trt.nptype(self.engine.get_tensor_dtype(name)))
                outputs[name] = value, stack.enter_context(self.memory(value.nbytes))
                self.context.set_tensor_address(name, outputs[name][1])
            self.execute()
            for value, pointer in outputs.values():
                self.copy(value.ctypes.data, pointer, value.nbytes, _FROM_DEVICE)
        return {name: value for name, (value, _) in outputs.items()}

    def output_names(self) -> list[str]:
        """Names of the plan's outputs, in its own order."""
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        return [name for name in names if self.engine.get_tensor_mode(name) == self.trt.TensorIOMode.OUTPUT]

    def execute(self) -> None:
        """Run the plan on the addresses set in ``context``, and wait. UserError when it fails."""
        if not self.context.execute_async_v3(0):
            raise UserError("the plan failed to run on this GPU: see TensorRT's messages above")
        _cuda_ok(self.cuda.cudaDeviceSynchronize())

    @contextlib.contextmanager
    def memory(self, size: int) -> Iterator[int]:
        """The address of ``size`` bytes on the GPU, freed at the end. UserError when there are none left."""
        pointer = ctypes.c_void_p()
        _cuda_ok(self.cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(max(size, 1))))
        try:
            yield int(pointer.value or 0)
        finally:
            self.cuda.cudaFree(pointer)

    def copy(self, target: int, source: int, size: int, kind: int) -> None:
        """Copy ``size`` bytes; ``kind`` is cudaMemcpyKind, 1 to the device and 2 from it."""
        _cuda_ok(
            self.cuda.cudaMemcpy(
                ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size), ctypes.c_int(kind)
            )
        )


def _cuda_runtime() -> Any:
    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise UserError("no libcudart.so: the CUDA runtime is needed to compare a plan; run inside the container")


def _cuda_ok(status: int) -> None:
    if status:
        raise UserError(f"CUDA answered error {status}: is the GPU free and its driver running (nvidia-smi)?")
