from dataclasses import fields

import pyarrow as pa

from whisper_shard.dataset.schema import INDEX_SCHEMA, LENGTHS_SCHEMA, IndexRow, Place, index_table

ROW = IndexRow(
    shard=1, row=2, key="k", audio_offset=512, audio_bytes=3, json_offset=1536, json_bytes=4, audio_crc32=2**32 - 1,
    json_crc32=0, num_samples=5, num_chars=6, text="hello!", language=None, speaker="s", task=None, source="a.wav",
)  # fmt: skip


def test_the_schema_is_that_of_version_1_of_the_format():
    types = dict.fromkeys(("key", "text", "language", "speaker", "task", "source"), pa.string())
    types |= {"audio_offset": pa.int64(), "json_offset": pa.int64()}
    types |= {"audio_crc32": pa.uint32(), "json_crc32": pa.uint32()}
    expected = [(field.name, types.get(field.name, pa.int32())) for field in fields(IndexRow)]
    assert [(field.name, field.type) for field in INDEX_SCHEMA] == expected
    assert [field.name for field in INDEX_SCHEMA if field.nullable] == ["language", "speaker", "task"]


def test_other_lists_of_columns_are_parts_of_it():
    assert set(Place._fields) <= set(INDEX_SCHEMA.names)
    assert all(INDEX_SCHEMA.field(f.name).type == f.type for f in LENGTHS_SCHEMA)


def test_rows_become_a_table_and_back():
    table = index_table([ROW, ROW])
    assert table.schema == INDEX_SCHEMA
    assert [IndexRow(**row) for row in table.to_pylist()] == [ROW, ROW]
    assert index_table([]).num_rows == 0
