import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from tests.foreign import encode, make_index, write_tar
from tests.making import make_dataset
from tests.s3 import BUCKET, upload_folder
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.summary import inspect_dataset
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.dataset.views import filter_dataset
from whisper_shard.errors import ConfigError, DatasetError
from whisper_shard.stream.delivery import Ledger
from whisper_shard.stream.loader import open_loader


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    seconds = [s for _ in range(3) for s in np.linspace(0.1, 1.2, 12)]
    make_dataset(tmp_path_factory.mktemp("source") / "set", seconds, per_shard=12, speakers=3)
    return tmp_path_factory.getbasetemp() / next(p for p in tmp_path_factory.getbasetemp().glob("source*")) / "set"


@pytest.fixture
def dataset(source, tmp_path):
    return shutil.copytree(source, tmp_path / "set")


def faults(folder):
    return [event for event in verify_dataset(folder) if isinstance(event, Fault)]


def column(folder, name):
    return open_dataset(folder).columns(name)[name].tolist()


def test_a_view_holds_the_rows_that_meet_the_condition(dataset, tmp_path):
    where = "seconds > 0.45 and speaker in ['speaker0', 'speaker1'] and seconds < 1.05"
    (made,) = filter_dataset(dataset, tmp_path / "view", where)
    whole = open_dataset(dataset)
    lengths, speakers = whole.columns("num_samples")["num_samples"], whole.columns("speaker")["speaker"]
    expected = [
        key
        for key, n, speaker in zip(whole.columns("key")["key"], lengths, speakers, strict=True)
        if 0.45 < n / 16_000 < 1.05 and speaker != "speaker2"
    ]
    assert column(tmp_path / "view", "key") == expected
    assert made.num_utterances == len(expected) and made.num_utterances_before == 36
    assert sum(made.dropped.values()) == 36 - len(expected)
    assert list(made.dropped) == ["seconds > 0.45", "speaker in ['speaker0', 'speaker1']", "seconds < 1.05"]
    assert sorted(path.name for path in (tmp_path / "view").iterdir()) == [
        "dataset.json", "index.parquet", "lengths.arrow",
    ]  # fmt: skip
    assert open_dataset(tmp_path / "view").shards[0].name == "../set/shards/000000.tar"
    assert faults(tmp_path / "view") == []
    assert inspect_dataset(tmp_path / "view").view.where == (where,)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["speaker != 'speaker1'", "seconds > 0.85", "matches(key, '[05]$')"])
def test_each_kept_utterance_once_an_epoch(dataset, tmp_path, where, workers):
    filter_dataset(dataset, tmp_path / "view", where)
    view = open_dataset(tmp_path / "view")
    config = StreamConfig(batch_size=4, seed=3, workers=workers)
    ledger, keys = Ledger(), []
    loader = open_loader(view, config, epochs=1)
    for batch in loader:
        ledger.add(batch)
        keys += [key for key in batch.keys if key]
    assert ledger.is_complete(loader.planned(0))
    assert sorted(keys) == sorted(column(tmp_path / "view", "key"))


def batches(view, *, rank, world, workers=0):
    loader = open_loader(view, StreamConfig(batch_size=4, seed=3, workers=workers), epochs=1, rank=rank, world=world)
    return {
        (batch.step, key): hashlib.sha256(row.tobytes()).hexdigest() for batch in loader for key, row in rows(batch)
    }


def rows(batch):
    lengths = batch.num_samples.tolist()
    found = zip(batch.keys, batch.waveforms.numpy(), lengths, strict=True)
    return [(key, row[:length]) for key, row, length in found if key]


def test_the_batches_are_the_same_for_any_number_of_ranks(dataset, tmp_path):
    filter_dataset(dataset, tmp_path / "view", "speaker != 'speaker1'")
    view = open_dataset(tmp_path / "view")
    alone = batches(view, rank=0, world=1)
    parts = [batches(view, rank=rank, world=2, workers=rank) for rank in (0, 1)]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == alone


def test_a_view_of_a_view_refers_to_the_dataset(dataset, tmp_path):
    filter_dataset(dataset, tmp_path / "one", "seconds > 0.45")
    filter_dataset(tmp_path / "one", tmp_path / "deep/two", "seconds < 1")
    shutil.rmtree(tmp_path / "one")
    filter_dataset(dataset, tmp_path / "both", "seconds > 0.45 and seconds < 1")
    assert column(tmp_path / "deep/two", "key") == column(tmp_path / "both", "key")
    view = open_dataset(tmp_path / "deep/two").description.view
    assert (view.dataset, view.where) == ("../../set", ("seconds > 0.45", "seconds < 1"))
    assert sum(view.dropped.values()) + len(column(tmp_path / "both", "key")) == 36


def test_both_can_be_moved_together(dataset, tmp_path):
    filter_dataset(dataset, tmp_path / "view", "seconds > 0.45")
    (tmp_path / "elsewhere").mkdir()
    for name in ("set", "view"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert faults(tmp_path / "elsewhere/view") == []
    (tmp_path / "elsewhere/view").rename(tmp_path / "view")
    with pytest.raises(
        DatasetError, match=r"view: is a view of a dataset that is missing: .*/set: no finished dataset"
    ):
        open_dataset(tmp_path / "view")


def test_a_dataset_that_was_changed_is_refused(dataset, tmp_path):
    filter_dataset(dataset, tmp_path / "view", "seconds > 0.45")
    content = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(content | {"more": 1}))
    message = rf"{re.escape(str(tmp_path))}/view: is a view of .*/set, which was changed after .* make it again by"
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path / "view")


def test_verify_finds_what_was_changed_in_a_shard_even_in_a_hole(dataset, tmp_path):
    filter_dataset(dataset, tmp_path / "view", "seconds > 0.45")
    shard = dataset / "shards/000001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1  # audio of the shortest utterance, which the view leaves out
    shard.write_bytes(data)
    (fault,) = faults(tmp_path / "view")
    assert fault.key is None and "sha256" in fault.detail
    data[-60_000] ^= 1
    shard.write_bytes(data)
    assert faults(tmp_path / "view")[0].key in column(tmp_path / "view", "key")


def test_a_view_of_each_part(source, tmp_path):
    for part in ("train", "eval"):
        shutil.copytree(source, tmp_path / "data" / part)
    made = filter_dataset(tmp_path / "data", tmp_path / "view", "seconds > 0.45")
    assert [view.view.name for view in made] == ["train", "eval"]
    assert faults(tmp_path / "view/train") == faults(tmp_path / "view/eval") == []


def test_a_view_of_tars_of_others(tmp_path):
    members = {}
    for number in range(8):
        members[f"u{number}.wav"] = encode(0.2 + number / 10, "wav", rate=22_050, seed=number)
        members[f"u{number}.txt"] = f"this is number {number}".encode()
    write_tar(tmp_path / "tars/0.tar", members)
    make_index(tmp_path / "tars", tmp_path / "index")
    filter_dataset(tmp_path / "index", tmp_path / "view", "matches(text, '[135]$')")
    assert faults(tmp_path / "view") == []
    batches = open_loader(open_dataset(tmp_path / "view"), StreamConfig(batch_size=2), epochs=1)
    texts = [text for batch in batches for text, weight in zip(batch.texts, batch.weights, strict=True) if weight > 0]
    assert sorted(texts) == ["this is number 1", "this is number 3", "this is number 5"]


def test_missing_values_are_counted_by_themselves(tmp_path):
    make_dataset(tmp_path / "set", [0.2, 0.4], record={"language": None})
    with pytest.raises(DatasetError, match=r"set: none of 2 utterances meet --where \"language != 'en'\""):
        filter_dataset(tmp_path / "set", tmp_path / "view", "language != 'en'")
    (made,) = filter_dataset(tmp_path / "set", tmp_path / "view", "language == 'en' or seconds < 0.3")
    assert made.dropped == {"language == 'en' or seconds < 0.3 (no value)": 1}


def test_what_is_not_measured_is_named(dataset, tmp_path):
    with pytest.raises(
        ConfigError, match=r"set has no column snr_db: it was prepared with --no-quality, .*missing are"
    ):
        filter_dataset(dataset, tmp_path / "view", "snr_db > 10")
    assert not (tmp_path / "view").exists()
    (made,) = filter_dataset(dataset, tmp_path / "view", "chars_per_second > 4")  # follows from the lengths
    assert 0 < made.num_utterances < 36


def test_nothing_but_a_view_is_replaced(dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"set: a view cannot replace the dataset it is made of"):
        filter_dataset(dataset, dataset, "seconds > 0.45")
    shutil.copytree(dataset, tmp_path / "other")
    with pytest.raises(DatasetError, match=r"other: holds a dataset, which a view would replace"):
        filter_dataset(dataset, tmp_path / "other", "seconds > 0.45")
    filter_dataset(dataset, tmp_path / "view", "seconds > 0.45")
    filter_dataset(dataset, tmp_path / "view", "seconds > 0.75")
    assert min(column(tmp_path / "view", "num_samples")) > 0.75 * 16_000


def test_a_view_in_a_bucket_cannot_name_local_shards(dataset):
    with pytest.raises(
        ConfigError, match=r"s3://bucket/view: cannot refer to .*set on this machine; upload that first"
    ):
        filter_dataset(dataset, "s3://bucket/view", "seconds > 0.45")


def test_a_view_in_a_bucket_of_a_dataset_in_that_bucket(s3, source):
    base = f"s3://{BUCKET}/views/set"
    upload_folder(source, base)
    filter_dataset(base, f"s3://{BUCKET}/views/few", "seconds > 0.85")
    view = open_dataset(f"s3://{BUCKET}/views/few")
    assert view.description.view.dataset == "../set"
    lengths = open_dataset(source).columns("num_samples")["num_samples"]
    assert view.num_utterances == int((lengths > 0.85 * 16_000).sum()) > 0
    ledger, loader = Ledger(), open_loader(view, StreamConfig(batch_size=4), epochs=1)
    for batch in loader:
        ledger.add(batch)
    assert ledger.is_complete(loader.planned(0))
    assert faults(f"s3://{BUCKET}/views/few") == []


def test_a_view_on_the_disk_of_a_dataset_in_a_bucket(s3, source, tmp_path):
    base = f"s3://{BUCKET}/views-local/set"
    upload_folder(source, base)
    filter_dataset(base, tmp_path / "few", "speaker == 'speaker1'")
    view = open_dataset(tmp_path / "few")
    assert view.shards[0].name == f"{base}/shards/000000.tar"
    keys = [key for batch in open_loader(view, StreamConfig(batch_size=4), epochs=1) for key in batch.keys if key]
    assert sorted(keys) == sorted(view.columns("key")["key"])
