"""The commands that read a dataset take a URL; those that write say that they take none."""

import json
import re
import shutil

import pytest

from tests.report.reading import Page
from tests.s3 import BUCKET, SECRET_KEY, restart_forkserver, upload_folder
from whisper_shard.cli.main import run

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def url(s3, folder, request):
    restart_forkserver()
    url = f"s3://{BUCKET}/{request.node.name.partition('[')[0]}"
    for part in ("train", "eval"):
        upload_folder(folder / "data" / part, f"{url}/{part}")
    return url


def test_verify(url, capsys):
    assert run(["verify", f"{url}/train"]) == 0
    assert re.search(rf"{url}/train: intact; 17 utterances in 1 shard, .* all read", capsys.readouterr().out)


def test_verify_behind_https(https_server, folder, monkeypatch, tmp_path, capsys):
    endpoint, authority, served = https_server
    shutil.copytree(folder / "data/eval", served / "eval", dirs_exist_ok=True)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run(["verify", f"{endpoint}/eval"]) == 0
    assert f"{endpoint}/eval: intact; 3 utterances" in capsys.readouterr().out


def test_inspect(url, folder, tmp_path, capsys):
    assert run(["inspect", f"{url}/train"]) == 0
    far = capsys.readouterr().out
    assert run(["inspect", str(folder / "data/train")]) == 0
    assert far.replace(f"{url}/train", str(folder / "data/train")) == capsys.readouterr().out
    assert run(["inspect", f"{url}/train", "--key", "0"]) == 1
    key = re.search(r"perhaps ([\w-]+)", capsys.readouterr().err)[1]
    assert run(["inspect", f"{url}/train", "--key", key, "--wav", str(tmp_path / "one.wav")]) == 0
    assert (tmp_path / "one.wav").stat().st_size > 1000


@pytest.mark.slow
def test_bench(url, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--seconds", "0.3", "--max-workers", "1", "--batch-size", "4", "--cache", str(tmp_path / "cache")]
    assert run(["bench", f"{url}/train", *flags, "--cache-gb", "0.1"]) == 0
    assert "utterances/s" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text())["num_utterances"] == 17
    assert f"{url}/train" in Page((tmp_path / "bench.html").read_text()).text
    assert len(list((tmp_path / "cache").rglob("*.tar"))) == 1


@pytest.mark.slow
def test_score(url, folder, tmp_path, capsys):
    flags = ["--max-new-tokens", "8", "--window", "short", "--out", str(tmp_path)]
    assert run(["score", str(folder / "tiny"), f"{url}/eval", *flags]) == 0
    far = json.loads((tmp_path / "score.json").read_text())
    assert run(["score", str(folder / "tiny"), str(folder / "data/eval"), *flags]) == 0
    near = json.loads((tmp_path / "score.json").read_text())
    assert far["windows"]["short"]["loss"] == near["windows"]["short"]["loss"]
    assert far["windows"]["short"]["scores"] == near["windows"]["short"]["scores"]
    assert far["dataset"] == f"{url}/eval"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", pytest.param("/train", marks=pytest.mark.long)])
def test_train(url, folder, tmp_path, capsys, part):
    """The same losses as from the disk; the bucket's folder of both parts is named, or the training part."""
    flags = ["--model", str(folder / "tiny"), "--max-steps", "3", "--batch-size", "4", "--workers", "2"]
    flags += ["--max-new-tokens", "8", "--eval-limit", "2"]
    assert run(["train", f"{url}{part}", str(tmp_path / "far"), *flags]) == 0
    assert run(["train", str(folder / "data"), str(tmp_path / "near"), *flags]) == 0
    far, near = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").open() if '"loss"' in line]
        for name in ("far", "near")
    )
    assert far == near
    assert len(far) >= 1
    for path in (tmp_path / "far").rglob("*.*"):
        assert path.is_dir() or SECRET_KEY.encode() not in path.read_bytes(), f"{path} holds the key"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["prepare", "corpus.csv", "https://out/data"], "OUT https://out/data: https can only be read; give a bucket"),
        (["train", "s3://in/data", "https://out/run"], "RUN https://out/run: https can only be read; give a bucket"),
        (["score", "tiny", "DATASET", "--out", "az://out/score"], "--out az://out/score: only a local path"),
        (["bench", "DATASET", "--out", "s3://out/score"], "--out s3://out/score: only a local path"),
        (["bench", "DATASET", "--cache", "s3://out/score"], "--cache s3://out/score: only a local path"),
        (["inspect", "hdfs://in/data"], "hdfs: unknown scheme; known are s3, gs, az, https, and local paths"),
        (["inspect", f"s3://{BUCKET}"], f"s3://{BUCKET}: no finished dataset here"),
        (["inspect", "s3://nowhere/data"], "s3://nowhere/data/dataset.json: there is no bucket 'nowhere' there"),
        (["verify", "s3://key:secret@nowhere/data"], "credentials do not belong in a URL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_a_url_is_said_in_one_line(s3, folder, command, message, capsys):
    command = [str(folder / "data/eval") if part == "DATASET" else part for part in command]
    command = [str(folder / part) if part == "tiny" else part for part in command]
    assert run(command) == 1
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("error: ") and len(shown.splitlines()) == 1
    assert message in shown
