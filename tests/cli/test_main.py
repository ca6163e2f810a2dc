"""The program as a user runs it: exit codes and one-line errors."""

import os
import signal
import subprocess
import sys

import pytest

from tests.making import make_dataset
from whisper_shard.cli.main import COMMANDS, run


def test_help_lists_every_command(capsys):
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in COMMANDS)
    assert "   75  stopped by SIGTERM, or train by a closed terminal; the same command resumes" in shown


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("whisper-shard 0.")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prepair"], "whisper-shard has no command 'prepair'; did you mean 'prepare'?"),
        (["prepare", "a.csv", "out", "--job", "2"], "unknown flag --job; did you mean '--jobs'?"),
        (["verify", "nowhere"], "nowhere: no finished dataset here"),
        (["inspect", "nowhere"], "nowhere: no finished dataset here"),
        (["bench", "nowhere"], "nowhere: no finished dataset here"),
        (["prepare", "absent.csv", "out"], "absent.csv"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(argv) == 1
    assert not list(tmp_path.iterdir()), "a command that cannot begin leaves nothing behind"
    shown = capsys.readouterr().err
    assert message in shown.replace("\n", " ") and shown.startswith("error: ")
    assert len(shown.strip().splitlines()) == 1


def test_both_launchers_run():
    for launcher in ([sys.executable, "-m", "whisper_shard"], ["bash", "bin/whisper-shard"]):
        ran = subprocess.run([*launcher, "--version"], capture_output=True, text=True, check=True)
        assert ran.stdout.startswith("whisper-shard")


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["doctor"], ["verify", "nowhere"]])
def test_a_closed_pipe_ends_every_command_quietly(argv, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    stream = "stderr" if argv[0] == "verify" else "stdout"
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    command = [sys.executable, "-m", "whisper_shard", *argv]
    ran = subprocess.run(command, **{stream: writing, other: subprocess.PIPE}, text=True, check=False, cwd=tmp_path)
    os.close(writing)
    assert (ran.returncode, getattr(ran, other)) == (141, "")


def test_a_broken_pipe_elsewhere_is_a_fault_of_the_machine():
    script = (
        "import dataclasses, os\n"
        "from whisper_shard.cli.commands import COMMANDS\n"
        "from whisper_shard.cli.main import main\n"
        "def write_to_closed_pipe(config):\n"
        "    reading, writing = os.pipe()\n"
        "    os.close(reading)\n"
        "    os.write(writing, b'x')\n"
        "COMMANDS['doctor'] = dataclasses.replace(COMMANDS['doctor'], run=write_to_closed_pipe)\n"
        "main(['doctor'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr[:32]) == (3, "error: this machine: Broken pipe")


@pytest.mark.parametrize(("command", "shown"), [("--help >&-", ""), ("inspect n\u00f6", r"n\xf6: 1 utterance, 1.5 s")])
def test_an_output_that_cannot_show_all_ends_nothing(command, shown, tmp_path):
    make_dataset(tmp_path / "n\u00f6", [1.5])
    line = f"{sys.executable} -m whisper_shard {command}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.getcwd()}
    ran = subprocess.run(line, shell=True, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(shown)


def test_ctrl_c_while_libraries_are_imported_shows_no_traceback(tmp_path):
    (tmp_path / "rich.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "whisper_shard", "--version"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == -signal.SIGINT
