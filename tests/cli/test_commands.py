"""The whole way through the commands, on a corpus of twenty sentences: what each prints and leaves behind."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from whisper_shard.cli.main import run
from whisper_shard.dataset.index import open_dataset
from whisper_shard.demo.speech import make_corpus
from whisper_shard.demo.tiny_whisper import make_tiny_whisper

QUICK = ["--min-seconds", "0.5", "--jobs", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, prepared, and a small model."""
    folder = tmp_path_factory.mktemp("journey")
    list(make_corpus(folder / "corpus", num_utterances=20))
    assert run(["prepare", str(folder / "corpus/corpus.csv"), str(folder / "data"), *QUICK]) == 0
    texts = open_dataset(folder / "data/train").columns("text")["text"].tolist()
    make_tiny_whisper(folder / "tiny", texts=texts, width=32, encoder_layers=1, decoder_layers=1, heads=2)
    return folder


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


def test_verify_finds_a_changed_byte_and_names_the_utterance(folder, capsys):
    dataset = open_dataset(folder / "data/eval")
    assert run(["verify", str(folder / "data/eval")]) == 0
    assert "intact; " in capsys.readouterr().out
    columns = dataset.columns("key", "audio_offset")
    shard = dataset.shard_path(0)
    whole = shard.read_bytes()
    place = int(columns["audio_offset"][0]) + 999
    shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert run(["verify", str(folder / "data/eval")]) == 1
    assert str(columns["key"][0]) in capsys.readouterr().out
    shard.write_bytes(whole)


def test_inspect_shows_a_dataset_and_one_utterance(folder, tmp_path, capsys):
    assert run(["inspect", str(folder / "data/train")]) == 0
    shown = capsys.readouterr().out
    assert "speakers: en" in shown and re.search(r"^   1\.\d-\S+ +#+ \d+$", shown, re.M)
    key = str(open_dataset(folder / "data/train").columns("key")["key"][0])
    assert run(["inspect", str(folder / "data/train"), "--key", key, "--wav", str(tmp_path / "u.wav")]) == 0
    assert run(["inspect", str(folder / "data/train"), "--key", str(int(key[:9]))]) == 1
    assert f"perhaps {key}\n" in capsys.readouterr().err
    assert run(["inspect", str(folder / "data/train"), "--key", key]) == 0
    assert "dBFS" in capsys.readouterr().out and (tmp_path / "u.wav").stat().st_size > 16_000
    assert run(["inspect", str(folder / "data/train"), "--wav", "u.wav"]) == 1
    assert "name it with --key" in capsys.readouterr().err


def test_bench_names_what_bounds_the_loader(folder, capsys):
    flags = ["--seconds", "0.3", "--max-workers", "1", "--batch-size", "4", "--step-ms", "50"]
    flags += ["--mix", str(folder / "data/eval"), "--weights", "1", "2"]
    assert run(["bench", str(folder / "data/train"), *flags]) == 0
    assert "utterances/s" in capsys.readouterr().out
    assert json.loads((folder / "data/train/bench.json").read_text())["num_utterances"] == 20
    assert "<svg" in (folder / "data/train/bench.html").read_text()


def test_train_score_and_the_finished_run(folder, capsys):
    command = ["train", str(folder / "data"), str(folder / "run"), "--model", str(folder / "tiny"), "--max-steps", "3"]
    command += ["--batch-size", "4", "--workers", "0", "--max-new-tokens", "8", "--eval-limit", "2"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "delivered, each exactly once" in shown or "3 steps" in shown
    for name in ("metrics.jsonl", "report.json", "train.toml", "model/model.safetensors", "model/tokenizer.json"):
        assert (folder / "run" / name).exists(), name
    assert run(["score", str(folder / "run/model"), str(folder / "data/eval"), "--max-new-tokens", "8"]) == 0
    assert "30 s windows" in capsys.readouterr().out
    assert "WER" in (folder / "run/model/score-eval/score.html").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--model", "./absent"], "./absent: no such model folder"),
        (["--model", "{folder}/corpus"], "corpus"),
        (["--model", "{folder}/tiny", "--eval", "{folder}/data/train"], "(?s)train"),
        (["--model", "{folder}/tiny", "--precision", "fp16"], "fp16"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(folder, tmp_path, command, message, capsys):
    flags = [flag.format(folder=folder) for flag in command]
    assert run(["train", str(folder / "data"), str(tmp_path / "run"), *flags, "--max-steps", "1"]) == 1
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("error: ") and len(shown.splitlines()) == 1
    assert re.search(message, shown)


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
