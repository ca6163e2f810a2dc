"""The machine part of every result. Imports nothing that would add to the measured memory."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe_machine(*libraries: str, **details: Any) -> dict[str, Any]:
    """Return processor, cores, load, Python and the versions of some libraries, and further values."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    bf16_flags = [flag for flag in ("amx_bf16", "avx512_bf16") if any(flag in line for line in lines)]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "bf16_products": bf16_flags[0] if bf16_flags else "emulated",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in libraries},
        **details,
    }
