import os

import pytest

from whisper_shard.errors import ConfigError, StateError
from whisper_shard.storage.lock import hold_lock


def hold(folder):
    return hold_lock(folder / "lock", folder=folder, name="run", doing="training")


def test_second_holder_is_refused_with_the_process_of_the_first(tmp_path):
    message = rf"process {os.getpid()} is training into it right now; wait until it ends, or choose another run folder"
    with hold(tmp_path / "run"), pytest.raises(StateError, match=message), hold(tmp_path / "run"):
        pass
    with hold(tmp_path / "run"):
        pass
    assert (tmp_path / "run/lock").read_text() == ""


def test_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "run").touch()
    with (
        pytest.raises(ConfigError, match=r"run: is a file, or lies below one; the run must be a folder"),
        hold(tmp_path / "run"),
    ):
        pass
