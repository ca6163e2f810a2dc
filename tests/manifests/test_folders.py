from pathlib import Path

import pytest

from tests.manifests.reading import touch, write
from whisper_shard.errors import ManifestError
from whisper_shard.manifests import folders


def is_list(name):
    return name == "list.txt"


def test_first_file_is_found_by_going_down(tmp_path, monkeypatch):
    touch(tmp_path, *(f"a/{i}/{i}.wav" for i in range(50)), "a/0/list.txt", "b/list.txt")
    monkeypatch.setattr(folders, "_MAX_ENTRIES", 60)
    assert folders.find_first(tmp_path, is_list) == tmp_path / "a/0/list.txt"
    (tmp_path / "a/0/list.txt").unlink()
    assert folders.find_first(tmp_path, is_list) is None  # given up
    monkeypatch.setattr(folders, "_MAX_ENTRIES", 1000)
    assert folders.find_first(tmp_path, is_list) == tmp_path / "b/list.txt"
    assert folders.find_first(tmp_path / "none", is_list) is None


def test_files_are_walked_in_order(tmp_path):
    touch(tmp_path, "b/2.wav", "b/1.wav", "a/9.wav", "a/x.txt", "0.wav")
    found = [
        path.relative_to(tmp_path).as_posix() for path in folders.walk_files(tmp_path, lambda n: n.endswith(".wav"))
    ]
    assert found == ["0.wav", "a/9.wav", "b/1.wav", "b/2.wav"]


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00010.parquet", "train"),
        ("default/validation/0000.parquet", "validation"),
        ("dev-clean", "validation"),
        ("test.other/x.tsv", "test"),
        ("contest/latest.tsv", "train"),
        ("train/dev.tsv", "validation"),
    ],
)
def test_splits_are_words_of_a_path(path, split):
    assert folders.find_split(Path(path)) == split


def test_lines(tmp_path):
    path = write(tmp_path / "a.txt", "\ufeffone\r\n\r\ntwo\n")
    assert list(folders.read_lines(path)) == ["one", "two"]
    with pytest.raises(ManifestError, match=r"none.txt: cannot be read: No such file"):
        list(folders.read_lines(tmp_path / "none.txt"))
