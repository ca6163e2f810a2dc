"""Where and in which number format torch computes: threads, device, precision; and what to say when it cannot.

Precision is mixed: parameters stay float32, matrix products run in the chosen format under autocast.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

from whisper_shard.errors import ConfigError, EnvironmentFault

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""What a user can ask for."""
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Format of matrix products by its name in the configuration."""
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: ",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
)
"""Words for memory that ran out where torch has no class for it: on a CPU, and within NVIDIA's libraries.

Source: c10/core/impl/alloc_cpu.cpp of PyTorch; the status codes of cuBLAS, cuDNN and cuFFT.
"""
CUDA_LIBRARIES = ("libc10_cuda", "libtorch_cuda", "libcudart", "libcuda.so", "libcublas", "libnvrtc")
"""Libraries whose absence means: a package built for CUDA lies beside a torch built without."""


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
    """Return the format of matrix products.

    auto takes bfloat16 where a GPU computes in it, float16 on older GPUs, float32 elsewhere. bfloat16 on a CPU must be
    asked for: with AMX or AVX-512 it is several times faster, without them slower.

    Raises:
        ConfigError: float16 on a CPU, or a name that is none of the four.
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
    """Return the context in which matrix products run in ``dtype``; float32 is plain computation."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def set_up_gpu(device: torch.device) -> None:
    """Make a GPU the current one and let it compute as suits windows of many lengths; on a CPU do nothing.

    float32 products may round to TF32. Attention never goes through cuDNN, though torch prefers it on Hopper and
    Blackwell: it builds a plan for every new shape, which takes up to a second, and with windows and texts of all
    lengths nearly every pass has a new shape. Flash and memory-efficient attention take any shape at once.

    Source: check_prefer_cudnn_attention in sdp_utils.cpp of PyTorch; times from
    https://github.com/modelscope/FunASR/issues/3704 (a B200), not measured here.
    """
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device; a GPU gets it behind the work it still has to do, and nothing waits."""
    if device.type != "cuda":
        return tensor.to(device)
    # The allocator of page-locked memory gives a block to nobody else before the copy is over.
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def set_threads(threads: int) -> int:
    """Let torch use ``threads`` CPU threads, 0: as many as this process may run on; return how many."""
    count = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Tell whether an error says that memory ran out: by its class, or by its words."""
    has_class = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return has_class or any(words in str(error) for words in OUT_OF_MEMORY)


@contextmanager
def explain_broken_install() -> Iterator[None]:
    """Turn the import failure of a CUDA-only extension beside a CPU torch into a sentence with its cure.

    Raises:
        EnvironmentFault: A package wants CUDA libraries that are not there.
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
