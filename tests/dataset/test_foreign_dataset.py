"""Datasets of foreign tars: every damage is named, and a dataset.json cannot lead its reader astray."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.foreign import encode, make_index, write_tar
from tests.s3 import BUCKET, upload_folder
from whisper_shard.dataset.description import FOREIGN_VERSION, LinkedShard, locate_shard, read_description
from whisper_shard.dataset.index import IndexReader, open_dataset
from whisper_shard.dataset.reader import decode_audio, decode_json, open_reader
from whisper_shard.dataset.sources.cache import NodeCache
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.dataset.summary import inspect_dataset, inspect_utterance
from whisper_shard.dataset.verify import Fault, ShardChecked, verify_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.storage.location import Location, parse_location


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two tars; in the first, the texts lie before all audio."""
    folder = tmp_path_factory.mktemp("foreign")
    audio = {f"{n}.flac": encode(0.2 + n / 20, "flac", rate=8_000, seed=n) for n in range(3)}
    record = {f"{n}.json": json.dumps({"text": f"Text {n}", "language": "en"}).encode() for n in range(3)}
    write_tar(folder / "tars/a.tar", {**record, **audio})
    write_tar(folder / "tars/b.tar", {"x.wav": encode(0.3), "x.txt": b"text x"})
    return make_index(folder / "tars", folder / "index").folder


@pytest.fixture
def dataset(sound, tmp_path):
    shutil.copytree(sound.parent, tmp_path / "copy")
    return open_dataset(tmp_path / "copy/index")


def faults(dataset):
    return [event for event in verify_dataset(dataset.folder) if isinstance(event, Fault)]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_sound_dataset_is_read_and_has_no_fault(dataset):
    events = list(verify_dataset(dataset.folder))
    assert [type(event) for event in events] == [ShardChecked, ShardChecked]
    reader = open_reader(dataset, LocalSource(dataset))
    raw = reader.read(1)
    assert decode_json(raw) == {"text": "text 1", "language": "en", "source": "1.flac"}
    assert len(decode_audio(raw)) == raw.num_samples == 4_000
    assert reader.index.key(3) == reader.read(3).key


def test_it_can_be_moved_together_with_its_tars(sound, tmp_path):
    shutil.copytree(sound.parent, tmp_path / "far/away")
    assert not faults(open_dataset(tmp_path / "far/away/index"))


def test_every_flipped_byte_is_named_by_verify(dataset):
    path = dataset.shard_path(0)
    columns = dataset.columns("key", "audio_offset", "audio_bytes", "json_offset", "json_bytes")
    clean = path.read_bytes()
    for position in range(0, len(clean), 397):
        flip(path, position)
        (found,) = faults(dataset)
        owner = [
            (key, kind)
            for key, *place in zip(*(columns[name][:3] for name in columns), strict=True)
            for kind, offset, size in (("audio", *place[:2]), ("text", *place[2:]))
            if offset <= position < offset + size
        ]
        if owner:
            assert (found.key, found.detail.split(" ")[0]) == owner[0]
            assert " has crc32 " in found.detail
        else:
            assert found.key is None
            assert found.detail.startswith("sha256 is ")
        path.write_bytes(clean)


def test_damaged_audio_is_never_decoded(dataset):
    flip(dataset.shard_path(0), int(dataset.columns("audio_offset")["audio_offset"][1]) + 99)
    reader = open_reader(dataset, LocalSource(dataset))
    with pytest.raises(
        DatasetError, match=r"a\.tar: utterance 000000001-1-\w+: audio at byte \d+ has crc32 \w+, the in"
    ):
        reader.read(1)
    assert reader.read(0).num_samples == 3_200


def test_a_tar_that_grew_shrank_or_went_is_named(dataset):
    path = dataset.shard_path(1)
    content = path.read_bytes()
    for damage, message in ((content + bytes(512), r"bytes, must have"), (content[:900], r"bytes, must have")):
        path.write_bytes(damage)
        assert any(message in fault.detail for fault in faults(dataset))
        with pytest.raises(DatasetError, match=r"b\.tar: has \d+ bytes, dataset\.json says \d+; restore the shard"):
            open_reader(dataset, LocalSource(dataset)).read(3)
    path.unlink()
    assert [fault.detail for fault in faults(dataset)] == ["is missing or empty"]
    os.mkfifo(path)  # opening it would wait for ever
    assert faults(dataset)[0].detail == "is missing or empty"
    with pytest.raises(DatasetError, match=r"b\.tar: is not a regular file"):
        open_reader(dataset, LocalSource(dataset)).read(3)


def test_older_versions_refuse_it_by_its_number(dataset):
    content = json.loads((dataset.folder / "dataset.json").read_text())
    assert content["format_version"] == FOREIGN_VERSION == 2
    content["format_version"] = 4
    (dataset.folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"format version 4, this program reads 1, 2, 3; use the version that wrote"):
        open_dataset(dataset.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, r"matching regex .* at `\$\.shards\[0\]\.name`"),
        ({"foreign": None}, r"Expected `object`, got `null` - at `\$\.foreign`"),
        ({"foreign": {"texts": "members", "npy_sample_rate": 0}}, r"Expected `int` >= 1000"),
        ({"foreign": {"texts": "pickle", "npy_sample_rate": 16000}}, r"Invalid enum value 'pickle'"),
    ],
)
def test_impossible_descriptions_are_refused(dataset, change, message):
    path = dataset.folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DatasetError, match=message):
        read_description(dataset.folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "a.tar\n", "a\x00.tar", "x" * 4_001 + ".tar", ".tar", "a.tar.gz"])
def test_names_that_are_no_tar_are_refused(dataset, name):
    path = dataset.folder / "dataset.json"
    content = json.loads(path.read_text())
    content["shards"][0]["name"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"matching regex .* at `\$\.shards\[0\]\.name`"):
        read_description(dataset.folder)


def located(folder, name):
    shard = LinkedShard(name=name, num_bytes=1, sha256="0" * 64, num_utterances=1)
    return str(locate_shard(parse_location(folder), shard))


def test_where_tars_lie():
    assert located("/data/index", "../tars/a.tar") == "/data/index/../tars/a.tar"
    assert located("/data/index", "/mnt/a.tar") == "/mnt/a.tar"
    assert located("/data/index", "s3://bucket/a.tar") == "s3://bucket/a.tar"
    assert located("s3://bucket/data/index", "../tars/a.tar") == "s3://bucket/data/tars/a.tar"
    assert located("s3://bucket/data/index", "gs://other/a.tar") == "gs://other/a.tar"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("s3://bucket/index", "/etc/a.tar"),
        ("s3://bucket/index", "../../a.tar"),
        ("s3://bucket/index", "file:///etc/a.tar"),
        ("/data", "file:///etc/a.tar"),
        ("/data", "ftp://host/a.tar"),
        ("/data", "https://user:word@host/a.tar"),
    ],
)
def test_where_no_tar_may_lie(folder, name):
    with pytest.raises(DatasetError, match=r"names the tar .*; index the tars again"):
        located(folder, name)


def test_extents_bridge_what_lies_between_audio(dataset):
    extents = IndexReader(dataset).extents(0)
    columns = dataset.columns("audio_offset", "audio_bytes")
    assert extents[:, 0].tolist() == columns["audio_offset"][:3].tolist()
    assert extents[:2, 1].tolist() == extents[1:, 0].tolist()
    assert extents[2, 1] == columns["audio_offset"][2] + columns["audio_bytes"][2]


def test_inspection(dataset):
    overview = inspect_dataset(dataset.folder)
    assert (overview.num_utterances, overview.codec) == (4, "flac, wav")
    assert {name: number for name, (number, _) in overview.statistics.languages.by_name.items()} == {"en": 3}
    key = str(dataset.columns("key")["key"][3])
    view = inspect_utterance(dataset.folder, key)
    assert (view.text, view.seconds, view.shard, view.record["source"]) == ("text x", 0.3, "../tars/b.tar", "x.wav")
    assert view.samples.dtype == np.int16
    assert view.peak_dbfs == pytest.approx(20 * np.log10(0.9), abs=0.01)


def test_an_index_and_its_tars_in_a_bucket_with_a_cache(dataset, s3, tmp_path):
    upload_folder(dataset.folder.parent, f"s3://{BUCKET}/whole")
    remote = open_dataset(f"s3://{BUCKET}/whole/index")
    assert remote.shard_location(0) == Location("s3", BUCKET, "whole/tars/a.tar")
    assert not [e for e in verify_dataset(remote.location) if isinstance(e, Fault)]
    cache = NodeCache(folder=tmp_path / "cache", max_bytes=1 << 30)
    source = open_source(remote, cache=cache)
    reader = open_reader(remote, source)
    expected = open_reader(dataset, LocalSource(dataset))
    for _ in range(400):
        assert all(bytes(reader.read(row).audio) == bytes(expected.read(row).audio) for row in range(4))
        if all(source.is_local(shard) for shard in range(2)):
            break
    assert all(source.is_local(shard) for shard in range(2))
    assert {path.name for path in (tmp_path / "cache").rglob("*.tar")} == {f"{s.sha256}.tar" for s in remote.shards}
    reader.close()
