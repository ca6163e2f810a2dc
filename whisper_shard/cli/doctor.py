"""Look at the installation, say what is wrong with it, and mend the one thing that is known to break.

The trap: PyPI has torchaudio with CUDA extensions only. Beside a CPU build of torch they cannot be loaded
(``libc10_cuda.so`` is missing), and then ``import torchaudio``, and with it Whisper in transformers, fails. Without the
extension files torchaudio falls back to Python by design, and everything used here works.
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
    "joblib", "pyarrow", "soundfile", "soxr", "av", "tyro", "rich",
)  # fmt: skip
DISABLED = ".needs-cuda"
"""Appended to the name of an extension file that was put aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at."""

    name: str
    """What was looked at."""
    is_well: bool
    """Whether it serves."""
    detail: str
    """What was found; where it is not well, what to do."""


def examine() -> Iterator[Finding]:
    """Look at everything the commands need, the cheap things first."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(name="python", is_well=sys.version_info >= (3, 11), detail=f"{python} (3.11 or newer is needed)")
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Finding(name="machine", is_well=True, detail=f"cores: {cores}, memory: {memory:.0f} GB")
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free / 1e9 if shared.is_dir() else 0.0
    advice = (
        "" if free > 0.5 else "; loader processes hand batches over here: raise it (docker: --shm-size), or --workers 0"
    )
    yield Finding(name="shared memory", is_well=free > 0.5, detail=f"{free:.1f} GB free in /dev/shm{advice}")
    yield from map(_examine_library, LIBRARIES)
    yield _examine_import("torchaudio", "import torchaudio")
    yield _examine_import("Whisper in transformers", "from transformers import WhisperForConditionalGeneration")
    yield _examine_gpu()


def put_cuda_extensions_aside() -> list[Path]:
    """Rename torchaudio's extension files if, and only if, they keep torchaudio from being imported.

    Returns:
        The files that were renamed.

    Raises:
        EnvironmentFault: The files cannot be renamed.
    """
    if _examine_import("torchaudio", "import torchaudio").is_well:
        return []
    spec = importlib.util.find_spec("torchaudio")
    if spec is None or spec.origin is None:
        return []
    files = sorted((Path(spec.origin).parent / "lib").glob("*.so"))
    try:
        for file in files:
            file.rename(file.with_name(file.name + DISABLED))
    except OSError as error:
        raise EnvironmentFault(
            f"{files[0].parent}: cannot rename {file.name}: {error.strerror}; run as its owner"
        ) from error
    return files


def _examine_library(name: str) -> Finding:
    try:
        return Finding(name=name, is_well=True, detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, is_well=False, detail="not installed: pip install -c constraints.txt -e .")


def _examine_import(name: str, statement: str) -> Finding:
    """Run an import in a fresh interpreter: a failed one would poison this process."""
    ran = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        return Finding(name=f"import {name}", is_well=True, detail="works")
    last = (ran.stderr.strip().splitlines() or [f"died with exit code {ran.returncode}"])[-1]
    cure = "; run `whisper-shard doctor --fix`" if ".so" in last else ""
    return Finding(name=f"import {name}", is_well=False, detail=last + cure)


def _examine_gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(name="GPU", is_well=True, detail="unknown: torch is not installed")
    import torch

    if not torch.cuda.is_available():
        return Finding(
            name="GPU", is_well=True, detail="none: training runs on the CPU, in fp32 unless --precision bf16"
        )
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding(name="GPU", is_well=True, detail=", ".join(names))
