"""Small files that would fill memory: each is refused before it does, in a process that has little."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.dataset.hostile import SECONDS, read_everything, resign
from tests.making import make_dataset
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.index_file import read_lengths
from whisper_shard.dataset.schema import INDEX_SCHEMA, LENGTHS_SCHEMA
from whisper_shard.dataset.writer import write_index
from whisper_shard.errors import DatasetError

BIG = 400 << 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("sound") / "set", SECONDS, per_shard=2).folder


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "hostile")


def read_tables(folder):
    index = pq.ParquetFile(folder / "index.parquet")
    return [index.read_row_group(i) for i in range(index.num_row_groups)]


def replace_column(table, name, values):
    place = INDEX_SCHEMA.get_field_index(name)
    return table.set_column(place, INDEX_SCHEMA.field(name), pa.array(values, INDEX_SCHEMA.field(name).type))


def write_index_as(folder, tables, **options):
    """Write an index as somebody else would, the lengths left alone."""
    options = {"compression": "zstd", "write_page_checksum": True, **options}
    with pq.ParquetWriter(folder / "index.parquet", tables[0].schema, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(len(table), 1))


def give_huge_text(folder):
    first, second = read_tables(folder)
    tables = [replace_column(first, "text", ["a" * BIG, "b"]), second]
    write_index_as(folder, tables, use_dictionary=False, write_statistics=False)  # which would take most of the time
    resign(folder)


def share_long_string(folder, name):
    """Many rows share one string through the dictionary of their column."""
    rows, row = 2000, read_tables(folder)[0].slice(0, 1)
    table = pa.concat_tables([row] * rows)
    shared = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["a" * 900_000])
    field = pa.field(name, shared.type, nullable=False)
    write_index(folder, [table])  # for its lengths
    table = replace_column(table, "json_crc32", np.random.default_rng(0).integers(0, 2**32, rows))
    table = table.set_column(INDEX_SCHEMA.get_field_index(name), field, shared)
    write_index_as(folder, [table], store_schema=False)
    declare_rows(folder, rows)


def repeat_row(folder, *, is_declared):
    rows, row = 1_000_000, read_tables(folder)[0].slice(0, 1)
    table = pa.table({name: pa.repeat(row[name][0], rows) for name in row.column_names}, schema=INDEX_SCHEMA)
    write_index_as(folder, [table])
    if is_declared:
        declare_rows(folder, rows, lengths=None)
    else:
        resign(folder)


def declare_rows(folder, rows, **fields):
    """Let dataset.json list one shard with so many utterances."""
    (folder / "shards/000001.tar").unlink()
    shard = json.loads((folder / "dataset.json").read_text())["shards"][0]
    totals = {"num_utterances": rows, "num_samples": 1}
    resign(folder, shards=[{**shard, "num_utterances": rows}], totals=totals, **fields)


def compress_lengths(folder, compression):
    zeros = pa.table({name: np.zeros(BIG // 4, np.int32) for name in LENGTHS_SCHEMA.names}, schema=LENGTHS_SCHEMA)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(folder / "lengths.arrow", LENGTHS_SCHEMA, options=options) as writer:
        writer.write_table(zeros)
    resign(folder)


HOSTILE = {
    "sound": (resign, None),
    "huge text": (give_huge_text, r"row group 0 has 4194\d+ bytes for 2 rows"),
    "shared text": (partial(share_long_string, name="text"), "has 1800000000 bytes of text for 2000 rows"),
    "shared key": (partial(share_long_string, name="key"), "has 1800000000 bytes of key for 2000 rows"),
    "equal rows": (partial(repeat_row, is_declared=False), "its row groups are not the shards of dataset.json"),
    "declared rows": (partial(repeat_row, is_declared=True), "cannot list 1000000 utterances"),
    "zstd lengths": (partial(compress_lengths, compression="zstd"), "are not the lengths of 3 utterances"),
    "lz4 lengths": (partial(compress_lengths, compression="lz4"), "are not the lengths of 3 utterances"),
}


@pytest.fixture(scope="module")
def hostile(sound, tmp_path_factory):
    """A folder with all hostile datasets, by name."""
    root = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in HOSTILE.items():
        make(shutil.copytree(sound, root / name))
        assert sum(path.stat().st_size for path in (root / name).iterdir() if path.is_file()) < 4_000_000
    return root


@pytest.fixture(scope="module")
def errors_of(sound, hostile):
    """Read all hostile datasets in one process that has little memory, and return its errors."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.dataset.hostile", str(sound), *(str(hostile / name) for name in HOSTILE)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return dict(zip(HOSTILE, map(json.loads, ran.stdout.splitlines()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_that_stands_for_a_large_one_is_refused_with_little_memory(errors_of, name):
    message = HOSTILE[name][1]
    if message is None:
        assert errors_of[name] == []
    else:
        assert any(re.search(message, error) for error in errors_of[name]), errors_of[name]


@pytest.mark.slow
def test_a_huge_text_is_not_read_by_those_who_read_texts(hostile):
    folder = hostile / "huge text"
    with pytest.raises(DatasetError, match=r"row group 0 has 4194\d+ bytes for 2 rows"):
        open_dataset(folder).columns("text")
    with pytest.raises(DatasetError, match=r"row group 0 has 4194\d+ bytes for 2 rows"):
        list(open_dataset(folder).pieces("text"))


def test_a_footer_that_is_too_long_is_not_parsed(folder):
    with (folder / "index.parquet").open("r+b") as file:
        file.truncate(100 << 20)
        file.seek(-8, 2)
        file.write((99 << 20).to_bytes(4, "little") + b"PAR1")
    resign(folder)
    with pytest.raises(DatasetError, match="103809024 bytes of metadata for 2 shards"):
        open_dataset(folder).open_index()


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip"])
def test_an_index_that_is_compressed_otherwise_is_refused(folder, compression):
    write_index_as(folder, read_tables(folder), compression=compression)
    resign(folder)
    with pytest.raises(DatasetError, match=r"row group 0 is compressed with .*, not with ZSTD"):
        open_dataset(folder).columns("key")


def test_an_index_with_other_columns_is_refused(folder):
    tables = read_tables(folder)
    for changed in (
        [table.drop_columns("text") for table in tables],
        [table.append_column("more", pa.array(range(len(table)))) for table in tables],
        [table.rename_columns({"speaker": "Speaker"}) for table in tables],
        [table.set_column(3, "audio_offset", table["audio_offset"].cast(pa.float64())) for table in tables],
    ):
        write_index_as(folder, changed)
        resign(folder)
        with pytest.raises(DatasetError, match="its columns are not those of an index"):
            open_dataset(folder).open_index()


def test_compressed_lengths_of_the_right_size_are_not_decompressed(tmp_path):
    """The body is as long as one of fewer lengths: its bytes are taken as they are, whatever they would become."""
    options, path = pa.ipc.IpcWriteOptions(compression="zstd"), tmp_path / "lengths.arrow"
    zeros = pa.table({name: np.zeros(10_000_000, np.int32) for name in LENGTHS_SCHEMA.names}, schema=LENGTHS_SCHEMA)
    with pa.ipc.new_file(path, LENGTHS_SCHEMA, options=options) as writer:
        writer.write_table(zeros)
    messages = pa.ipc.MessageReader.open_stream(path.read_bytes()[8:])
    messages.read_next_message()
    body = messages.read_next_message().body.to_pybytes()
    num_utterances = len(body) // 8
    with contextlib.suppress(DatasetError):  # some of the numbers may be negative
        lengths = read_lengths(path, num_utterances)
        assert b"".join(values.tobytes() for values in lengths.values()) == body
    with pytest.raises(DatasetError, match="are not the lengths of 10000000 utterances"):
        read_lengths(path, 10_000_000)


def test_lengths_are_those_that_were_written(tmp_path):
    for rows in (0, 1, 2, 3, 1000):
        columns = {name: np.arange(rows, dtype=np.int32) + i for i, name in enumerate(LENGTHS_SCHEMA.names)}
        with pa.ipc.new_file(tmp_path / "lengths.arrow", LENGTHS_SCHEMA) as writer:
            writer.write_table(pa.table(columns, schema=LENGTHS_SCHEMA))
        lengths = read_lengths(tmp_path / "lengths.arrow", rows)
        assert list(lengths) == LENGTHS_SCHEMA.names
        for name, values in columns.items():
            np.testing.assert_array_equal(lengths[name], values)
        with pytest.raises(DatasetError, match=r"not the lengths of|not two columns|cannot be read"):
            read_lengths(tmp_path / "lengths.arrow", rows + 2)


@pytest.mark.parametrize("size", [0, 7, 8, 100, 4000])
def test_what_is_no_arrow_file_is_refused(tmp_path, size):
    (tmp_path / "lengths.arrow").write_bytes(np.random.default_rng(0).bytes(size))
    with pytest.raises(DatasetError, match=r"lengths.arrow: "):
        read_lengths(tmp_path / "lengths.arrow", 1)


def test_negative_lengths_are_refused(folder):
    tables = read_tables(folder)
    write_index(folder, [replace_column(tables[0], "num_chars", [5, -1]), tables[1]])
    resign(folder)
    with pytest.raises(DatasetError, match=r"lengths.arrow: num_chars of row 1 is -1"):
        open_dataset(folder).columns("num_chars")
    resign(folder, lengths=None)
    with pytest.raises(DatasetError, match=r"index.parquet: num_chars of row 1 is -1"):
        open_dataset(folder).columns("num_chars")
    assert read_everything(folder)
