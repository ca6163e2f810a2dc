import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.dataset.test_schema import ROW
from whisper_shard.dataset.schema import INDEX_SCHEMA, index_table
from whisper_shard.dataset.writer import write_dataset, write_index
from whisper_shard.errors import EnvironmentFault
from whisper_shard.storage.atomic import json_bytes, sha256_of_file


def test_index_has_a_row_group_for_each_table(tmp_path):
    info = write_index(tmp_path, [index_table([ROW, ROW]), index_table([]), index_table([ROW])])
    index = pq.ParquetFile(tmp_path / "index.parquet")
    assert [index.metadata.row_group(i).num_rows for i in range(index.num_row_groups)] == [2, 0, 1]
    assert index.read().cast(INDEX_SCHEMA).num_rows == 3
    assert (info.totals.num_utterances, info.totals.num_samples) == (3, 15)
    assert info.index.sha256 == sha256_of_file(tmp_path / "index.parquet")
    assert info.index.num_bytes == (tmp_path / "index.parquet").stat().st_size
    lengths = pa.ipc.open_file(tmp_path / "lengths.arrow").read_all()
    assert lengths.to_pydict() == {"num_samples": [5, 5, 5], "num_chars": [6, 6, 6]}
    assert info.lengths.sha256 == sha256_of_file(tmp_path / "lengths.arrow")


def test_description_is_canonical_and_has_a_digest_of_itself(tmp_path):
    write_dataset(tmp_path, shards=[], tables=[], meta={"codec": "flac", "versions": {"b": 1, "a": "\u00e9"}})
    data = (tmp_path / "dataset.json").read_bytes()
    content = json.loads(data)
    assert data == json_bytes(content)
    digest = content.pop("digest")
    assert digest == hashlib.sha256(json_bytes(content)).hexdigest()
    assert (content["codec"], content["totals"]) == ("flac", {"num_utterances": 0, "num_samples": 0})


def test_index_that_cannot_be_written_is_the_machines_fault(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"nowhere/index.parquet: cannot write"):
        write_index(tmp_path / "nowhere", [])
