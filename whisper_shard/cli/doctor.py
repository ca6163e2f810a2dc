"""Check the installation, and repair the one fault that is known to occur.

PyPI has torchaudio with CUDA extensions only. Beside a CPU build of torch they cannot be loaded (``libc10_cuda.so`` is
missing), and then ``import torchaudio``, and with it Whisper in transformers, fails. Without the extension files
torchaudio falls back to Python by design, and everything used here works.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whisper_shard.errors import EnvironmentFault

LIBRARIES = (
    "torch", "torchaudio", "transformers", "webdataset", "evaluate", "jiwer", "librosa", "audiomentations", "pandas",
    "joblib", "pyarrow", "soundfile", "soxr", "av", "jinja2", "tyro", "rich",
)  # fmt: skip
MIN_SHARED_MEMORY_GB = 0.5
"""Free space in /dev/shm below which loader processes may fail."""
DISABLED_SUFFIX = ".needs-cuda"
"""Appended to the name of an extension file to disable it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    name: str
    """What was checked."""
    is_ok: bool
    """Whether it is as needed."""
    detail: str
    """What was found; after a problem, also what to do."""


def check_installation() -> Iterator[Finding]:
    """Check everything that the commands need, the cheap things first."""
    yield _check_python()
    yield _describe_machine()
    yield _check_shared_memory()
    yield from map(_check_library, LIBRARIES)
    yield _check_import("torchaudio", "import torchaudio")
    yield _check_import("Whisper in transformers", "from transformers import WhisperForConditionalGeneration")
    yield _check_trim()
    yield _describe_gpu()


def disable_cuda_extensions() -> list[Path]:
    """Rename torchaudio's extension files if, and only if, they keep torchaudio from being imported.

    Returns:
        The files that were renamed.

    Raises:
        EnvironmentFault: The files cannot be renamed.
    """
    if _check_import("torchaudio", "import torchaudio").is_ok:
        return []
    spec = importlib.util.find_spec("torchaudio")
    if spec is None or spec.origin is None:
        return []
    files = sorted((Path(spec.origin).parent / "lib").glob("*.so"))
    try:
        for file in files:
            file.rename(file.with_name(file.name + DISABLED_SUFFIX))
    except OSError as error:
        raise EnvironmentFault(
            f"{files[0].parent}: cannot rename {file.name}: {error.strerror}; run as its owner"
        ) from error
    return files


def _check_python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(name="python", is_ok=sys.version_info >= (3, 11), detail=f"{version} (3.11 or newer is needed)")


def _describe_machine() -> Finding:
    cores = len(os.sched_getaffinity(0))
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Finding(name="machine", is_ok=True, detail=f"cores: {cores}, memory: {memory_gb:.0f} GB")


def _check_shared_memory() -> Finding:
    """Check the space through which loader processes pass batches to the training process."""
    folder = Path("/dev/shm")
    free_gb = shutil.disk_usage(folder).free / 1e9 if folder.is_dir() else 0.0
    is_ok = free_gb >= MIN_SHARED_MEMORY_GB
    detail = f"{free_gb:.1f} GB free in /dev/shm"
    if not is_ok:
        detail += "; loader processes pass batches through it: enlarge it (docker: --shm-size), or --workers 0"
    return Finding(name="shared memory", is_ok=is_ok, detail=detail)


def _check_library(name: str) -> Finding:
    try:
        return Finding(name=name, is_ok=True, detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, is_ok=False, detail="not installed: pip install -c constraints.txt -e .")


def _check_import(name: str, statement: str) -> Finding:
    """Import in a new interpreter, since a failed import would leave broken modules in this one."""
    ran = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        return Finding(name=f"import {name}", is_ok=True, detail="works")
    last = (ran.stderr.strip().splitlines() or [f"ended with exit code {ran.returncode}"])[-1]
    advice = "; run `whisper-shard doctor --fix`" if ".so" in last else ""
    return Finding(name=f"import {name}", is_ok=False, detail=last + advice)


def _check_trim() -> Finding:
    """Compare where recordings are trimmed with the installed librosa, which `prepare` promises to follow."""
    import numpy as np
    from librosa.effects import trim

    from whisper_shard.prepare.waveform import trim_silence

    time = np.arange(32_000, dtype=np.float32) / 16_000
    waveform = np.sin(2 * np.pi * 200 * time) * np.exp(-((time - 1.0) ** 2) / 0.02)
    ours = trim_silence(waveform, trim_db=30.0)
    expected, _ = trim(waveform, top_db=30.0)
    is_ok = np.array_equal(ours, expected)
    detail = "cuts where librosa.effects.trim cuts"
    if not is_ok:
        detail = f"keeps {len(ours)} samples where librosa.effects.trim keeps {len(expected)}; install librosa 0.11"
    return Finding(name="trimming", is_ok=is_ok, detail=detail)


def _describe_gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(name="GPU", is_ok=True, detail="unknown: torch is not installed")
    import torch

    if not torch.cuda.is_available():
        detail = "none: training runs on the CPU, in fp32 unless --precision bf16"
    else:
        detail = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Finding(name="GPU", is_ok=True, detail=detail)
