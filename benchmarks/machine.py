"""The machine part of every result, and the file of one. Imports nothing that would add to the measured memory."""

import datetime
import json
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


def write_result(name: str, command: str, result: Any, *libraries: str) -> None:
    """Print a result, and write it to ``benchmarks/results/<date>-<name>.json``.

    Args:
        name: Of the benchmark.
        command: What repeats it.
        result: What was measured, as JSON values.
        libraries: Those whose versions matter.
    """
    date = datetime.date.today().isoformat()
    content = {"date": date, "command": command, name: result, "machine": describe_machine(*libraries)}
    path = Path(__file__).parent / "results" / f"{date}-{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{json.dumps(result, indent=1)}\nwritten to {path}")
