import signal
import subprocess
import sys
import time

import pytest

from tests.cli.commands.running import QUICK
from whisper_shard.cli.main import run
from whisper_shard.dataset.index import open_dataset


def test_every_row_is_kept_or_named(folder, capsys):
    import pandas as pd

    kept = sum(open_dataset(folder / "data" / part).num_utterances for part in ("train", "eval"))
    rejects = pd.concat([pd.read_parquet(folder / "data" / part / "rejects.parquet") for part in ("train", "eval")])
    assert kept == 20 and len(rejects) == 6
    assert {"missing_file", "decode_failed", "silent", "too_short", "text_too_short"} == set(rejects["reason"])
    assert run(["prepare", str(folder / "corpus/corpus.csv"), str(folder / "data"), *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "1 worker; done already: 2 shards" in shown and "eval 3 rows in 1 shard;" in shown
    assert f"nothing was left to prepare; `whisper-shard verify {folder / 'data/train'}` reads every byte" in shown


def test_a_dry_run_writes_nothing_and_names_the_broken(folder, capsys):
    assert run(["prepare", str(folder / "corpus/corpus.csv"), str(folder / "dry"), *QUICK, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "26 rows: train" in shown and "as flac" in shown
    assert "row 20, audios/absent.wav: missing_file" in shown
    assert not (folder / "dry").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_a_state_that_goes_on(folder, tmp_path):
    """Interrupt a real preparation; the same command then finishes it."""
    command = [
        sys.executable,
        "-m",
        "whisper_shard",
        "prepare",
        str(folder / "corpus/corpus.csv"),
        str(tmp_path / "data"),
    ]
    process = subprocess.Popen([*command, *QUICK], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "data").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in shown
    ran = subprocess.run([*command, *QUICK], capture_output=True, text=True, check=True)
    assert "done in" in ran.stdout
    first, second = (open_dataset(base / "data/train").index_sha256 for base in (folder, tmp_path))
    assert first == second


def test_paths_of_another_machine_are_named(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("path,text\nC:\\corpus\\a.wav,hello there\nb.wav,hello again\n")
    assert run(["prepare", str(tmp_path / "list.csv"), str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert (
        "of the first 2 recordings, 0 kept, 2 rejected" in shown and "(estimated from 2 recordings at random)" in shown
    )
    assert "; it is a path of Windows: replace C:\\ by the folder here" in shown
    assert f"relative paths are relative to {tmp_path}" in shown
