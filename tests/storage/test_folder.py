import pytest

from whisper_shard.errors import EnvironmentFault
from whisper_shard.storage.folder import atomic_folder


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "out") as folder:
            (folder / text).write_text(text)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(ValueError, match="stop"), atomic_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
        raise ValueError("stop")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_a_place_that_cannot_be_written_is_the_machines_fault(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="file/out: cannot write"), atomic_folder(tmp_path / "file" / "out"):
        pass
