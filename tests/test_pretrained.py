"""OpenAI's whisper-base on real recordings, through the commands a user types: its WER must fall."""

import csv
import json
from pathlib import Path

import pytest
import soundfile
import soxr

from whisper_shard.cli.main import run

MODEL = Path("../shared/models/whisper-base").resolve()
DIGITS = Path("../shared/data/spoken-digits").resolve()

pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.skipif(not (MODEL.is_dir() and DIGITS.is_dir()), reason=f"needs {MODEL} and {DIGITS}"),
]


def write_part(source, target, *, every, count):
    """Write every so many-th row of a manifest to another one, with absolute paths."""
    with source.open() as file:
        rows = list(csv.DictReader(file))[::every][:count]
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "audios": str(source.parent / row["audios"])} for row in rows)
    return str(target)


@pytest.mark.timeout(900)
@pytest.mark.long
def test_fine_tuning_on_real_recordings_lowers_the_wer(tmp_path, capsys):
    train = write_part(DIGITS / "train.csv", tmp_path / "train.csv", every=26, count=96)
    test = write_part(DIGITS / "test.csv", tmp_path / "test.csv", every=25, count=12)
    recipe = ["--config", "configs/spoken-digits.toml"]
    data, trained = str(tmp_path / "data"), tmp_path / "run"
    assert run(["prepare", train, data, *recipe, "--eval-corpus", test]) == 0
    short = ["--max-steps", "6", "--batch-size", "16", "--lr", "4e-5", "--workers", "1"]
    assert run(["train", data, str(trained), *recipe, "--model", str(MODEL), *short]) == 0
    assert "in 30 s windows" in capsys.readouterr().out
    report = json.loads((trained / "report.json").read_text())
    assert report["wer_before"] > 0.5
    assert report["wer"] < 0.5 * report["wer_before"]

    from transformers import pipeline

    recognize = pipeline("automatic-speech-recognition", model=str(trained / "model"))
    with (tmp_path / "test.csv").open() as file:
        spoken = list(csv.DictReader(file))[::3]
    heard = [recognize({"raw": read_16k(row["audios"]), "sampling_rate": 16_000})["text"] for row in spoken]
    num_right = sum(text.strip().lower() == row["transcription"] for text, row in zip(heard, spoken, strict=True))
    assert num_right > len(spoken) / 2, heard


def read_16k(path):
    samples, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, rate, 16_000)
