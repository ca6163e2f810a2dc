"""Device, precision and threads of torch, and its errors explained.

Precision is mixed: parameters stay float32, matrix products run in the chosen dtype under autocast.
"""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

from whisper_shard.errors import ConfigError, EnvironmentFault

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision as a user can choose it."""
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of matrix products by its name in the configuration."""
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: ",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
)
"""Parts of messages that mean out of memory where torch has no class for it: on a CPU, and in NVIDIA's libraries.

Source: c10/core/impl/alloc_cpu.cpp of PyTorch; the status codes of cuBLAS, cuDNN and cuFFT.
"""
CUDA_LIBRARIES = ("libc10_cuda", "libtorch_cuda", "libcudart", "libcuda.so", "libcublas", "libnvrtc")
"""Libraries that are missing where a package built for CUDA is installed beside a CPU-only torch."""


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; auto: this process's GPU where there is one, else the CPU.

    Raises:
        ConfigError: A device that torch does not know or that is not there.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown to torch; use cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: torch {torch.__version__} sees no GPU here; use cpu")
    return device


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products.

    auto is bfloat16 on a GPU that computes in it, float16 on older GPUs, float32 elsewhere. bfloat16 on a CPU must be
    chosen explicitly: with AMX or AVX-512 it is several times faster, without them slower.

    Raises:
        ConfigError: float16 on a CPU, or an unknown name.
    """
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision not in DTYPES:
        raise ConfigError(f"--precision {precision}: unknown; use auto, {', '.join(DTYPES)}")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 does not work on a CPU; use bf16 or fp32")
    return DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context in which matrix products run in ``dtype``; with float32 it changes nothing."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32 for the time, without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def set_up_gpu(device: torch.device) -> None:
    """Make a GPU the current one and set it up for windows of many lengths; on a CPU do nothing.

    float32 products may round to TF32. Attention never uses cuDNN, though torch prefers it on Hopper and Blackwell: it
    builds a plan for every new shape, which takes up to a second, and with windows and texts of all lengths nearly
    every pass has a new shape. Flash and memory-efficient attention need no plan.

    Source: check_prefer_cudnn_attention in sdp_utils.cpp of PyTorch; times from
    https://github.com/modelscope/FunASR/issues/3704 (a B200), not measured here.
    """
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device; a GPU does it after the work queued before, and nothing waits for it."""
    if device.type != "cuda":
        return tensor.to(device)
    # Safe without a wait: the allocator of page-locked memory does not reuse a block before its copy is over.
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def set_threads(threads: int) -> int:
    """Set the number of CPU threads of torch, 0: one for each core of this process; return the number."""
    count = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Return whether an error means out of memory, by its class or its message."""
    has_class = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return has_class or any(part in str(error) for part in OUT_OF_MEMORY)


def free_memory(device: torch.device) -> None:
    """Free what a pass that ran out of memory has left, once its error is gone.

    The garbage collector is off during a run: tensors in cycles would stay in memory.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def explain_broken_install() -> Iterator[None]:
    """Explain the import failure of a CUDA-only extension beside a CPU-only torch, and how to repair it.

    Raises:
        EnvironmentFault: A package needs CUDA libraries that are missing.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        missing = _missing_cuda_library(error)
        if missing is None:
            raise
        raise EnvironmentFault(
            f"torchaudio was built for CUDA and cannot load {missing} beside torch {torch.__version__}; "
            "run `whisper-shard doctor --fix`, which renames its CUDA-only extension files"
        ) from error


def _missing_cuda_library(error: BaseException | None) -> str | None:
    while error is not None:
        found = next((name for name in CUDA_LIBRARIES if name in str(error)), None)
        if found is not None:
            return found
        error = error.__cause__ or error.__context__
    return None


def quiet_bitsandbytes() -> None:
    """Keep bitsandbytes, which peft imports too, from warning at its import of kernels that nothing here uses."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
