"""The checks find what is broken, and the repair touches nothing that works."""

import subprocess
import sys

import pytest

from whisper_shard.cli.doctor import check_installation, disable_cuda_extensions


@pytest.mark.slow
def test_this_installation_has_no_problem():
    findings = {finding.name: finding for finding in check_installation()}
    assert {"python", "machine", "shared memory", "torch", "GPU", "import torchaudio"} <= set(findings)
    problems = [f"{finding.name}: {finding.detail}" for finding in findings.values() if not finding.is_ok]
    assert not problems


@pytest.mark.slow
def test_a_working_torchaudio_is_left_alone():
    assert disable_cuda_extensions() == []


def test_extensions_that_cannot_be_loaded_are_disabled(tmp_path):
    """A torchaudio whose extension cannot be loaded fails as on a real machine: with the linker's OSError."""
    package = tmp_path / "torchaudio"
    (package / "lib").mkdir(parents=True)
    (package / "lib" / "libtorchaudio.so").write_bytes(b"not a library")
    (package / "__init__.py").write_text(
        "import ctypes, pathlib\n"
        "for file in pathlib.Path(__file__).parent.glob('lib/*.so'):\n"
        "    ctypes.CDLL(str(file))\n"
    )
    script = (
        "from whisper_shard.cli.doctor import _check_import, disable_cuda_extensions\n"
        "print(_check_import('torchaudio', 'import torchaudio').detail)\n"
        "print([file.name for file in disable_cuda_extensions()])\n"
        "print(_check_import('torchaudio', 'import torchaudio').is_ok)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:.", "PATH": "/usr/bin:/bin"},
    )
    found, renamed, repaired = ran.stdout.splitlines()
    assert found.endswith("run `whisper-shard doctor --fix`") and "OSError" in found
    assert renamed == "['libtorchaudio.so']"
    assert repaired == "True"
    assert (package / "lib" / "libtorchaudio.so.needs-cuda").exists()
