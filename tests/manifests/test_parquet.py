import datetime
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.manifests.hub import encode, write_hub
from tests.manifests.reading import notes_of, read_all, read_rows, write
from tests.prepare.corpora import fingerprint, prepare, totals_of
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.summary import inspect_utterance
from whisper_shard.errors import AudioError, ManifestError, StateError
from whisper_shard.manifests import embedded
from whisper_shard.manifests.embedded import EmbeddedAudio
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.manifests.parquet import read_files
from whisper_shard.prepare.events import Note, PlanMade


def test_recordings_of_datasets_are_read_from_the_file(tmp_path):
    path = write_hub(tmp_path / "train.parquet", range(10))
    manifest, rows, rejections = read_all(path)
    assert not rejections
    assert [(row.row, row.source, row.transcript, row.member) for row in rows] == [
        (i, f"clip{i}.wav", f"Sentence number {i}", i) for i in range(10)
    ]
    assert {(row.file, row.path) for row in rows} == {("train.parquet", str(path))}
    assert rows[3].extra == {"id": 3}
    assert rows[3].recording == f"{path}#3"
    assert manifest.notes == (
        "train.parquet is Parquet with embedded recordings: audio paths from 'audio', transcripts from 'sentence'; "
        "carried along: 'id'",
    )
    (table,) = [pa.concat_tables(manifest.read())]
    assert table.column("block").to_pylist() == [0] * 4 + [1] * 4 + [2] * 2
    reader = EmbeddedAudio()
    for row in (0, 1, 3, 9, 2, 8):
        assert reader.read(str(path), row) == encode(row)


def test_a_row_group_is_read_once_in_order(tmp_path, monkeypatch):
    path = str(write_hub(tmp_path / "train.parquet", range(12)))
    opened = []
    read_group = EmbeddedAudio._read_group
    monkeypatch.setattr(
        EmbeddedAudio, "_read_group", lambda self, group: opened.append(group) or read_group(self, group)
    )
    reader = EmbeddedAudio()
    for row in (0, 2, 3, 5, 11):
        assert reader.read(path, row) == encode(row)
    assert opened == [0, 1, 2]
    reader.read(path, 10)
    assert opened == [0, 1, 2, 2]


def test_bytes_alone_and_paths_alone(tmp_path):
    pd.DataFrame({"audio": [encode(1), b""], "text": ["one", "two"]}).to_parquet(tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet")
    assert [(row.source, row.member) for row in rows] == [("a.parquet#0", 0), ("a.parquet#1", 1)]
    pd.DataFrame({"path": ["a.wav"], "text": ["one"], "n": [7], "when": [datetime.date(2026, 1, 2)]}).to_parquet(
        tmp_path / "b.parquet"
    )
    (row,) = read_rows(tmp_path / "b.parquet")
    assert (row.source, row.member, row.extra) == ("a.wav", None, {"n": 7, "when": "2026-01-02"})
    audio = pa.array([{"bytes": None, "path": "a.wav"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"audio": audio, "text": ["one"], "start": [1.5]}), tmp_path / "c.parquet")
    (row,) = read_rows(tmp_path / "c.parquet")
    assert (row.source, row.path, row.member, row.start_seconds) == ("a.wav", f"{tmp_path}/a.wav", None, 1.5)


def test_of_several_columns_with_audio_one_is_named(tmp_path):
    table = {"noisy": [encode(1)], "clean": [encode(2)], "text": ["one"]}
    path = tmp_path / "a.parquet"
    pd.DataFrame(table).to_parquet(path)
    with pytest.raises(ManifestError, match=r"a.parquet: no column for the audio path"):
        read_rows(path)
    (row,) = read_rows(path, audio_column="clean")
    assert row.extra == {}
    assert EmbeddedAudio("clean").read(row.path, 0) == encode(2)
    assert "column 'noisy' holds bytes and is not carried along" in notes_of(path, audio_column="clean")


def make_hub(folder, count=10):
    write_hub(folder / "data/train-00000-of-00002.parquet", range(count // 2))
    write_hub(folder / "data/train-00001-of-00002.parquet", range(count // 2, count))
    write_hub(folder / "data/test-00000-of-00001.parquet", [90])
    write_hub(folder / "data/validation-00000-of-00002.parquet", [80, 81])
    write_hub(folder / "data/validation-00001-of-00002.parquet", [82])
    write(folder / "README.md", "A data set.")
    return folder


def test_a_folder_is_a_data_set_of_a_hub(tmp_path):
    hub = make_hub(tmp_path / "hub")
    manifest, rows, _ = read_all(hub)
    assert [row.extra["id"] for row in rows] == list(range(10))
    assert [row.row for row in rows] == list(range(10))
    assert [row.member for row in rows] == [*range(5), *range(5)]
    assert rows[7].file == "data/train-00001-of-00002.parquet"
    assert manifest.notes[:2] == (
        f"hub has its own split test; to evaluate on it: --eval-corpus '{hub}/data/test-00000-of-00001.parquet'",
        f"hub has its own split validation; to evaluate on it: --eval-corpus '{hub}/data/validation-0000*.parquet'",
    )
    assert manifest.notes[2].startswith("hub is 2 files of Parquet with embedded recordings: ")
    validation = read_rows(hub / "data/validation-0000*.parquet")
    assert [row.extra["id"] for row in validation] == [80, 81, 82]
    # As the hub converts other formats: a folder for each split.
    write_hub(tmp_path / "converted/default/train/0000.parquet", [1])
    write_hub(tmp_path / "converted/default/test/0000.parquet", [2])
    write_hub(tmp_path / "converted/default/test/0001.parquet", [3])
    assert [row.extra["id"] for row in read_rows(tmp_path / "converted")] == [1]
    assert [row.extra["id"] for row in read_rows(tmp_path / "converted/default/test")] == [2, 3]
    assert str(tmp_path / "converted/default/test'") in notes_of(tmp_path / "converted")[0]


def test_folders_that_are_not_one_data_set_are_refused(tmp_path):
    write_hub(tmp_path / "hub/de/train/0000.parquet", [1])
    write_hub(tmp_path / "hub/en/train/0000.parquet", [2])
    with pytest.raises(
        ManifestError, match=r"hub: holds several data sets; name the folder of one: .*de/train or .*en/"
    ):
        read_rows(tmp_path / "hub")
    write_hub(tmp_path / "other/test.parquet", [1])
    write_hub(tmp_path / "other/dev.parquet", [2])
    with pytest.raises(
        ManifestError, match=r"other: no split is called train; name one of .*test.parquet, .*dev.parquet"
    ):
        read_rows(tmp_path / "other")
    write_hub(tmp_path / "odd/train-0.parquet", [1])
    pd.DataFrame({"audio": [encode(1)], "text": ["one"]}).to_parquet(tmp_path / "odd/train-1.parquet")
    with pytest.raises(ManifestError, match=r"train-1.parquet: has no column audio like that of train-0.parquet"):
        read_rows(tmp_path / "odd")


def test_damaged_files_are_named(tmp_path):
    path = write_hub(tmp_path / "a.parquet", range(3))
    content = path.read_bytes()
    write(path, content[:-100])
    with pytest.raises(ManifestError, match=r"a.parquet: cannot be read as Parquet: "):
        read_rows(path)
    write(path, content)
    write(tmp_path / "b.parquet", content)
    reader = EmbeddedAudio()
    with pytest.raises(AudioError, match="the Parquet file has 3 rows, row 3 is asked for"):
        reader.read(str(path), 3)
    write(tmp_path / "b.parquet", content[:-100])
    with pytest.raises(AudioError, match="damaged Parquet: "):
        reader.read(str(tmp_path / "b.parquet"), 0)
    with pytest.raises(AudioError, match="cannot be opened") as caught:
        reader.read(str(tmp_path / "none.parquet"), 0)
    assert caught.value.reason == "missing_file"
    assert reader.read(str(path), 1) == encode(1)


def test_digest_covers_everything_but_the_recordings(tmp_path):
    def digest(numbers, **columns):
        return open_manifest(write_hub(tmp_path / "a.parquet", numbers, **columns), PrepareConfig()).digest()

    same = digest([1, 2])
    assert digest([1, 2]) == same
    assert digest([1, 2], sentence=["Sentence number 1", "Sentence number X"]) != same
    assert digest([1, 2], id=[2, 1]) != same
    assert digest([1, 2, 3]) != same


@pytest.mark.slow
def test_hub_becomes_datasets_and_is_noticed_when_it_changes(tmp_path):
    hub = make_hub(tmp_path / "hub", 60)
    events = prepare(hub, tmp_path / "out", eval_corpus=str(hub / "data/validation-0000*.parquet"))
    assert any("has its own split test" in event.message for event in events if isinstance(event, Note))
    totals = totals_of(events)
    assert (totals["train"].num_utterances, totals["eval"].num_utterances) == (60, 3)
    train = open_dataset(tmp_path / "out/train")
    columns = train.columns("key", "source", "text")
    assert sorted(columns["source"]) == sorted(f"clip{i}.wav" for i in range(60))
    key = columns["key"][list(columns["source"]).index("clip7.wav")]
    utterance = inspect_utterance(train.folder, key)
    assert utterance.record["transcript"] == "Sentence number 7"
    waveform = np.frombuffer(encode(7)[44:], "<i2")
    assert np.corrcoef(utterance.samples, waveform)[0, 1] > 0.9999
    # Once more: nothing to do, and the same bytes on another disk.
    events = prepare(hub, tmp_path / "out", eval_corpus=str(hub / "data/validation-0000*.parquet"))
    (made,) = [event for event in events if isinstance(event, PlanMade)]
    assert made.num_shards_done == sum(size.num_shards for size in made.splits.values())
    os.utime(hub / "data/train-00001-of-00002.parquet", (1, 1))
    before = fingerprint(tmp_path / "out/train")
    events = prepare(hub, tmp_path / "out", eval_corpus=str(hub / "data/validation-0000*.parquet"))
    assert any("has changed: another modification time" in event.message for event in events if isinstance(event, Note))
    assert fingerprint(tmp_path / "out/train") == before
    write_hub(hub / "data/train-00001-of-00002.parquet", range(30, 60), id=[0] * 30)
    with pytest.raises(StateError, match=r"was made from another manifest: .*hub had sha256"):
        prepare(hub, tmp_path / "out", eval_corpus=str(hub / "data/validation-0000*.parquet"))


def test_row_groups_are_read_once_for_a_shard(tmp_path, monkeypatch):
    from whisper_shard.manifests.rows import as_rows
    from whisper_shard.prepare.plan import read_shard_rows
    from whisper_shard.prepare.spool import sort_into_shards, spool_manifest

    path = write_hub(tmp_path / "train.parquet", range(64), rows_per_group=8)
    config = PrepareConfig(eval_fraction=0.25)
    spool = spool_manifest(open_manifest(path, config), tmp_path / "train.spool", config)
    opened = []
    read_group = EmbeddedAudio._read_group
    monkeypatch.setattr(
        EmbeddedAudio, "_read_group", lambda self, group: opened.append(group) or read_group(self, group)
    )
    for part in (range(16), range(16, 64)):
        sort_into_shards(spool, tmp_path / "rows.arrow", ranks=part, shard_rows=48)
        rows = [row for row, _ in as_rows(read_shard_rows(tmp_path / "rows.arrow", 0), folder=tmp_path)]
        assert len({row.member for row in rows}) == len(part)
        opened.clear()
        reader = EmbeddedAudio()
        assert [reader.read(row.path, row.member) for row in rows] == [encode(row.member) for row in rows]
        assert sorted(opened) == sorted({row.member // 8 for row in rows})


def test_a_batch_lies_in_one_row_group_and_holds_no_audio(tmp_path):
    path = write_hub(tmp_path / "train.parquet", range(20), rows_per_group=7)
    manifest = open_manifest(path, PrepareConfig())
    sizes = [len(table) for table in manifest.read()]
    assert sizes == [7, 7, 6]
    assert max(table.nbytes for table in manifest.read()) < 2_000
    assert embedded.ROWS_AT_ONCE < 10
    assert read_files.__kwdefaults__["batch_rows"] == 10_000
