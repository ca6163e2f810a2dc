"""The doctor finds what is broken, and mends nothing that works."""

import subprocess
import sys

from whisper_shard.cli.doctor import examine, put_cuda_extensions_aside


def test_this_installation_is_well():
    findings = {finding.name: finding for finding in examine()}
    assert {"python", "machine", "shared memory", "torch", "GPU", "import torchaudio"} <= set(findings)
    ill = [f"{finding.name}: {finding.detail}" for finding in findings.values() if not finding.is_well]
    assert not ill


def test_a_working_torchaudio_is_left_alone():
    assert put_cuda_extensions_aside() == []


def test_the_trap_is_found_and_mended(tmp_path):
    """A torchaudio whose extension cannot be loaded is met as it is met in the wild: the linker's OSError."""
    package = tmp_path / "torchaudio"
    (package / "lib").mkdir(parents=True)
    (package / "lib" / "libtorchaudio.so").write_bytes(b"not a library")
    (package / "__init__.py").write_text(
        "import ctypes, pathlib\n"
        "for file in pathlib.Path(__file__).parent.glob('lib/*.so'):\n"
        "    ctypes.CDLL(str(file))\n"
    )
    script = (
        "from whisper_shard.cli.doctor import _examine_import, put_cuda_extensions_aside\n"
        "print(_examine_import('torchaudio', 'import torchaudio').detail)\n"
        "print([file.name for file in put_cuda_extensions_aside()])\n"
        "print(_examine_import('torchaudio', 'import torchaudio').is_well)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:.", "PATH": "/usr/bin:/bin"},
    )
    found, renamed, mended = ran.stdout.splitlines()
    assert found.endswith("run `whisper-shard doctor --fix`") and "OSError" in found
    assert renamed == "['libtorchaudio.so']"
    assert mended == "True"
    assert (package / "lib" / "libtorchaudio.so.needs-cuda").exists()
