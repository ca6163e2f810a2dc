import numpy as np
import pytest

from tests.making import make_dataset
from whisper_shard.dataset import index
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.search import find_common, find_first, find_key, find_long_texts
from whisper_shard.errors import DatasetError

SECONDS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Four shards, read in pieces of two."""
    monkeypatch.setattr(index, "_PIECE_ROWS", 3)
    dataset = make_dataset(tmp_path / "many", SECONDS, per_shard=2)
    assert [len(piece) for piece in dataset.pieces("key")] == [4, 3]
    assert [len(piece) for piece in dataset.pieces("key", rows=7)] == [7]
    return dataset


def test_common_keys_and_common_audio_are_found_in_every_piece(many, tmp_path):
    few = make_dataset(tmp_path / "audio", [9.0, *SECONDS[1:3], 8.0, 7.0, 0.6], prefix="renamed", per_shard=2)
    assert find_common(many, few).tolist() == [False, True, True, False, False, True]
    few = make_dataset(tmp_path / "keys", [1.0, 1.1, 1.2], seed=1)
    assert find_common(many, few).all()
    few = make_dataset(tmp_path / "other", SECONDS, seed=1, prefix="other")
    assert not find_common(many, few).any()


def test_values_are_found_where_they_are_first(tmp_path, many):
    assert find_first(many, "speaker", "language") == {("speaker", "speaker0"): 0, ("speaker", "speaker1"): 1}
    late = make_dataset(tmp_path / "late", SECONDS, speakers=6, per_shard=2)
    assert find_first(late, "speaker")["speaker", "speaker5"] == 5


def test_keys_are_found_in_every_piece(many):
    assert [find_key(many, key) for key in many.columns("key")["key"]] == list(range(7))
    assert find_key(many, "utt") is None


def test_long_texts_come_with_their_rows(many):
    texts = many.columns("text")["text"]
    sizes = np.array([len(text.encode()) for text in texts])
    limit = int(np.median(sizes))
    expected = [(int(row), texts[row], None) for row in np.flatnonzero(sizes > limit)]
    assert expected and list(find_long_texts(many, more_than_bytes=limit)) == expected
    assert len(list(find_long_texts(many, more_than_bytes=-1))) == 7


def test_a_damaged_index_is_named(many, monkeypatch):
    monkeypatch.setattr(index, "_HASHED_BYTES", 0)
    path = many.folder / "index.parquet"
    content = bytearray(path.read_bytes())
    place = content.index(b"utt00005")
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"index.parquet: cannot be read .*restore it or prepare the dataset again"):
        find_common(open_dataset(many.folder), many)
