"""Flags for object storage: they reach every command, and are written nowhere."""

import os

import pytest

from tests.making import make_dataset
from tests.prepare.corpora import make_corpus
from tests.s3 import ACCESS_KEY, BUCKET, PUBLIC, SECRET_KEY, upload_folder
from whisper_shard.cli.commands import COMMANDS
from whisper_shard.cli.main import run
from whisper_shard.cli.storage import storage_variables, take_storage_flags
from whisper_shard.config.storage import StorageFlags
from whisper_shard.errors import ConfigError


def test_flags_are_taken_off_the_command_line():
    argv = ["data", "--endpoint-url", "http://host:1", "--lr", "1", "--anonymous", "--region=eu-central-1"]
    flags = StorageFlags(endpoint_url="http://host:1", region="eu-central-1", anonymous=True)
    assert take_storage_flags(argv) == (flags, ["data", "--lr", "1"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--endpoint-url"], "--endpoint-url needs a value"),
        (["--region", "--anonymous"], "--region needs a value"),
        (["--endpoint-url", "host"], "--endpoint-url must be http://HOST or https://HOST, without credentials"),
        (["--endpoint-url=https://me:secret@host"], "--endpoint-url must be http://HOST or https://HOST, without"),
        (["--region", "Europe!"], "--region 'Europe!': must be the name of a region, such as eu-central-1"),
    ],
)
def test_impossible_flags(argv, message):
    with pytest.raises(ConfigError, match=message) as raised:
        take_storage_flags(argv)
    assert "secret" not in str(raised.value)


def test_variables_hold_as_long_as_the_command_runs(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.delenv("AWS_SKIP_SIGNATURE", raising=False)
    with storage_variables(StorageFlags(region="eu-central-1", anonymous=True)):
        assert os.environ["AWS_REGION"] == "eu-central-1" and os.environ["AWS_SKIP_SIGNATURE"] == "true"
    assert os.environ["AWS_REGION"] == "us-east-1" and "AWS_SKIP_SIGNATURE" not in os.environ


@pytest.fixture
def bare(s3, monkeypatch):
    """The server, without a variable that leads to it."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    return s3


def test_an_anonymous_reader_of_a_server_of_its_own(bare, tmp_path, capsys, monkeypatch):
    make_dataset(tmp_path / "data", [2.0] * 4)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bare.endpoint)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    upload_folder(tmp_path / "data", f"s3://{PUBLIC}/flags")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_SKIP_SIGNATURE")
    flags = ["--endpoint-url", bare.endpoint, "--region", "us-east-1", "--anonymous"]
    for command in ("verify", "inspect"):
        assert run([command, f"s3://{PUBLIC}/flags", *flags]) == 0, capsys.readouterr().err


def test_workers_inherit_them_and_no_file_holds_them(bare, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    corpus = make_corpus(tmp_path / "corpus", 12)
    flags = ["--endpoint-url", bare.endpoint, "--region", "us-east-1"]
    with storage_variables(take_storage_flags(flags)[0]):
        upload_folder(corpus.parent, f"s3://{BUCKET}/flagged")
    assert run(["prepare", f"s3://{BUCKET}/flagged/corpus.csv", str(tmp_path / "out"), "--trim-db", "0", *flags]) == 0
    shown = "".join(capsys.readouterr())
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            shown += path.read_bytes().decode(errors="replace")
    assert not [secret for secret in (SECRET_KEY, ACCESS_KEY, bare.endpoint, str(bare.port)) if secret in shown]


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.has_urls])
def test_help_names_them(command, capsys):
    with pytest.raises(SystemExit):
        run([command, "--help"])
    assert "--endpoint-url" in capsys.readouterr().out


def test_a_command_without_urls_does_not_know_them(capsys):
    assert run(["doctor", "--anonymous"]) == 1
    assert "unknown flag --anonymous" in capsys.readouterr().err
