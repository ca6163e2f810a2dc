import errno
import hashlib
import os
from pathlib import Path

import pytest

from whisper_shard.errors import EnvironmentFault
from whisper_shard.storage.atomic import AtomicWriter, atomic_file, is_environment_error, json_bytes, write_json


class RecordingWriter(AtomicWriter):
    def __init__(self):
        self.steps = []

    def after_step(self, path, step):
        self.steps.append((path.name, step))


def test_file_appears_when_it_is_whole(tmp_path):
    writer = RecordingWriter()
    with writer.file(tmp_path / "a") as file:
        file.write(b"one")
        file.write(memoryview(b"two" * 3_000_000), b"", b"three")
        assert not (tmp_path / "a").exists()
    content = b"one" + b"two" * 3_000_000 + b"three"
    assert (tmp_path / "a").read_bytes() == content
    assert (file.num_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert writer.steps == [("a", step) for step in ("written", "synced", "renamed", "committed")]


def test_what_the_kernel_takes_in_pieces_is_written_to_its_end(tmp_path, monkeypatch):
    take_all = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, parts: take_all(descriptor, [parts[0], parts[1][:2]]))
    with atomic_file(tmp_path / "a") as file:
        file.write(b"one", b"two", b"three")
    assert (tmp_path / "a").read_bytes() == b"onetwothree"
    assert file.sha256 == hashlib.sha256(b"onetwothree").hexdigest()


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a") as file:
        file.write(b"new")
        raise RuntimeError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"a: cannot write: No space left on device; free some space"),
        (errno.EROFS, r"the filesystem is read-only: choose another output folder"),
        (errno.EIO, r"Input/output error; fix this"),
    ],
)
def test_faults_of_the_machine_say_what_to_do(tmp_path, number, message):
    error = OSError(number, os.strerror(number))
    assert is_environment_error(error)
    with pytest.raises(EnvironmentFault, match=message), atomic_file(tmp_path / "a") as file:
        file.write(b"new")
        raise error


def test_a_filesystem_that_removes_nothing_does_not_hide_the_fault(tmp_path, monkeypatch):
    def refuse(path, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with (
        pytest.raises(EnvironmentFault, match=r"absent/a.json: cannot write: No such file"),
        atomic_file(tmp_path / "absent/a.json"),
    ):
        pass


def test_json_is_written_in_one_way(tmp_path):
    digest = write_json(tmp_path / "a.json", {"b": 1, "a": "\u00fc"})
    assert (tmp_path / "a.json").read_bytes() == json_bytes({"a": "\u00fc", "b": 1})
    assert digest == hashlib.sha256(json_bytes({"a": "\u00fc", "b": 1})).hexdigest()
