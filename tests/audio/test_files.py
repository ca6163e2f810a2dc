import errno
import os

import pytest

from tests.audio.recordings import read
from whisper_shard.errors import AudioError


def test_what_is_no_file_has_a_reason(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.wav")
    reasons = {
        "none.wav": "missing_file",
        "link.wav": "missing_file",
        "folder.wav": "not_a_file",
        "pipe.wav": "not_a_file",
    }
    for name, reason in reasons.items():
        with pytest.raises(AudioError, match=r"No such file|not a regular file but a (folder|pipe)") as caught:
            read(tmp_path / name)
        assert caught.value.reason == reason
    with pytest.raises(AudioError, match="embedded null byte"):
        read(tmp_path / "a\0b.wav")


@pytest.mark.parametrize(
    "name", ["ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EREMOTEIO", "ENODEV", "ESTALE", "EIO", "EMFILE"]
)
def test_lost_mount_is_not_the_recordings_fault(tmp_path, monkeypatch, name):
    number = getattr(errno, name)

    def fail(path, _flags):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("whisper_shard.audio.files.os.open", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        read(tmp_path / "a.wav")


def test_paths_that_cannot_be_are_the_rows_own_fault(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("none.wav", "file/a.wav", "loop", "x" * 300):
        with pytest.raises(
            AudioError, match=r"cannot be opened: (No such|Not a dir|Too many levels|File name too)"
        ) as caught:
            read(tmp_path / name)
        assert caught.value.reason == "missing_file"
