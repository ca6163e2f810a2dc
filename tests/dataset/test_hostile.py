"""Whoever wrote a dataset, and whatever is in it: readers give the right result or a DatasetError."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dataset.hostile import SECONDS, read_everything, resign, write_signed
from tests.making import make_dataset
from whisper_shard.dataset.reader import RawUtterance, decode_json
from whisper_shard.dataset.schema import INDEX_SCHEMA
from whisper_shard.errors import DatasetError

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
VALUES = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 0.5, 1e300, "", "x", "\ud800", "../../etc/passwd",
    [], [None], [[]], {}, {"num_bytes": None}, {"name": 3}, "0" * 64,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("hostile") / "set", SECONDS, per_shard=2).folder


@pytest.fixture(scope="module")
def files(folder):
    return {name: (folder / name).read_bytes() for name in ("dataset.json", "index.parquet", "lengths.arrow")}


def restore(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)


def places_in(value, place=()):
    """Yield the way to each value within a JSON value."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_in(inner, (*place, key))


def replace_at(value, place, new):
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replace_at(value[place[0]], place[1:], new)
    return copy


@QUICK
@given(data=st.data())
def test_any_value_in_the_description_is_right_or_refused(folder, files, data):
    content = json.loads(files["dataset.json"])
    content["files"] = {"report.html": {"num_bytes": 1, "sha256": "0" * 64}}
    content["rejects"] = {"too_short": 1}
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from([place for place in places_in(content) if place]))
        content = replace_at(content, place, data.draw(st.sampled_from(VALUES)))
    write_signed(folder, content)
    read_everything(folder)
    restore(folder, files)


@QUICK
@given(name=st.sampled_from(["dataset.json", "index.parquet", "lengths.arrow"]), resigned=st.booleans(), data=st.data())
def test_any_change_of_bytes_is_right_or_refused(folder, files, name, resigned, data):
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content) - 1))
        end = min(start + data.draw(st.sampled_from([0, 1, 4, 64, 10**6])), len(content))
        content[start:end] = data.draw(
            st.sampled_from([b"", b"\0", b"\xff" * 4, b"\x7f", b"\0" * 64]) | st.binary(max_size=8)
        )
        content = content or bytearray(b"\0")
    (folder / name).write_bytes(content)
    if resigned and name != "dataset.json":
        resign(folder)
    errors = read_everything(folder)
    assert errors or resigned or content == files[name] or name == "dataset.json"
    restore(folder, files)


COLUMNS = st.sampled_from(INDEX_SCHEMA.names)
STRINGS = st.sampled_from(["", "utt00001", "a/b", "k" * 200, "\u00e4", "x\0y", "shards"])


@QUICK
@given(name=COLUMNS, row=st.integers(0, 2), with_lengths=st.booleans(), data=st.data())
def test_any_value_in_the_index_is_right_or_refused(folder, files, name, row, with_lengths, data):
    table, field = pq.read_table(folder / "index.parquet"), INDEX_SCHEMA.field(name)
    values = table[name].to_pylist()
    if field.type == pa.string():
        values[row] = data.draw(STRINGS | st.just(None) if field.nullable else STRINGS)
    else:
        limits = np.iinfo(field.type.to_pandas_dtype())
        edges = st.sampled_from([limits.min, limits.max, 0, 1, 512, 513, values[row] + 1, values[row - 1]])
        values[row] = data.draw(edges | st.integers(int(limits.min), int(limits.max)))
    table = table.set_column(INDEX_SCHEMA.get_field_index(name), field, pa.array(values, field.type))
    with pq.ParquetWriter(folder / "index.parquet", INDEX_SCHEMA, compression="zstd") as writer:
        writer.write_table(table.slice(0, 2))
        writer.write_table(table.slice(2))
    resign(folder, **({} if with_lengths else {"lengths": None}))
    read_everything(folder)
    restore(folder, files)


def test_text_that_is_no_utf_8_is_refused(folder, files):
    """The index is changed where it lies: Parquet stores short texts as they are."""
    table = pq.read_table(folder / "index.parquet")
    binary = pa.array([b"\xff\xfe", b"\xed\xa0\x80", b"ok"], pa.binary())
    for name in ("text", "key", "speaker"):
        field = pa.field(name, pa.binary(), nullable=INDEX_SCHEMA.field(name).nullable)
        broken = table.set_column(INDEX_SCHEMA.get_field_index(name), field, binary)
        options = {"compression": "zstd", "store_schema": False}
        with pq.ParquetWriter(folder / "index.parquet", broken.schema, **options) as writer:
            writer.write_table(broken.slice(0, 2))
            writer.write_table(broken.slice(2))
        resign(folder)
        assert read_everything(folder)
    restore(folder, files)


@pytest.mark.parametrize(
    "member",
    [
        b'{"text":"\\ud800"}',
        b'{"text":"a","language":[1]}',
        b"[" * 100_000,
        b'{"text":1e999}',
        b'{"text":"a","task":{}}',
    ],
)
def test_a_member_that_others_could_not_use_is_refused(member):
    raw = RawUtterance(
        key="k", path="s.tar", suffix="npy", audio=memoryview(b""), json=memoryview(member), num_samples=0
    )
    with pytest.raises(DatasetError, match=r"s\.tar: utterance k: .*json member"):
        decode_json(raw)


@pytest.mark.parametrize("name", ["shards/000000.tar", "report.html", "index.parquet", "lengths.arrow", "dataset.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    resign(copy, files={"report.html": {"num_bytes": 1, "sha256": "0" * 64}})
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    assert read_everything(copy)
