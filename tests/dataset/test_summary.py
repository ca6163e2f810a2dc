import shutil

import numpy as np
import pytest
import soundfile

from tests.making import make_dataset
from whisper_shard.dataset.statistics import MEASURES
from whisper_shard.dataset.summary import inspect_dataset, inspect_utterance, write_wav
from whisper_shard.errors import DatasetError, EnvironmentFault
from whisper_shard.report.charts import list_columns


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("dataset") / "train", [1.5, 2.5, 2.5], per_shard=2)


def seconds_histogram(overview):
    counts = overview.statistics.histograms[MEASURES[0]]
    return tuple(list_columns(counts, MEASURES[0].bin_width, max_columns=20))


def test_totals_and_histogram(dataset):
    overview = inspect_dataset(dataset.folder)
    assert (overview.num_utterances, overview.num_shards) == (3, 2)
    assert overview.hours == pytest.approx(6.5 / 3600)
    counts = {start: count for start, _, count in seconds_histogram(overview) if count}
    assert counts == {1.5: 1, 2.5: 2}
    assert overview.seconds_quantiles["median"] == 2.5
    assert overview.statistics.speakers.by_name == {"speaker0": (2, 64_000), "speaker1": (1, 40_000)}


@pytest.mark.parametrize(
    ("seconds", "bars"),
    [
        ([0.3], ((0.3, 0.4, 1),)),
        ([1.0, 2.95], tuple((n / 10, (n + 1) / 10, int(n in (10, 29))) for n in range(10, 30))),
        ([0.5, 0.6, 29.99], tuple((2.0 * n, 2.0 * n + 2, {0: 2, 14: 1}.get(n, 0)) for n in range(15))),
    ],
)
def test_the_histogram_reaches_over_the_lengths_there_are(tmp_path, seconds, bars):
    made = make_dataset(tmp_path / "train", seconds)
    assert seconds_histogram(inspect_dataset(made.folder)) == bars


def test_one_utterance_can_be_read_and_heard(dataset, tmp_path):
    view = inspect_utterance(dataset.folder, "utt00001")
    assert (view.shard, view.seconds, view.record["source"]) == ("shards/000000.tar", 2.5, "audios/1.wav")
    assert view.peak_dbfs == pytest.approx(20 * np.log10(0.9), abs=0.01)
    assert view.rms_dbfs < view.peak_dbfs
    write_wav(view, tmp_path / "a.wav")
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == 16_000
    np.testing.assert_array_equal(samples, view.samples)


def test_unknown_key_suggests_near_ones(dataset):
    with pytest.raises(DatasetError, match=r"no utterance has the key '00002'; perhaps utt00002"):
        inspect_utterance(dataset.folder, "00002")


@pytest.mark.parametrize("kind", ["audio", "json"])
def test_damaged_members_are_not_shown_as_sound(dataset, tmp_path, kind):
    folder = shutil.copytree(dataset.folder, tmp_path / "copy")
    columns = dataset.columns(f"{kind}_offset", f"{kind}_bytes")
    content = bytearray((folder / "shards/000000.tar").read_bytes())
    content[columns[f"{kind}_offset"][1] + columns[f"{kind}_bytes"][1] // 2] ^= 0xFF
    (folder / "shards/000000.tar").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"000000.tar: utterance utt00001: {kind} at byte .* has crc32 .*; restore"):
        inspect_utterance(folder, "utt00001")
    assert inspect_utterance(folder, "utt00000").seconds == 1.5


def test_missing_shard_is_named(dataset, tmp_path):
    folder = shutil.copytree(dataset.folder, tmp_path / "copy")
    (folder / "shards/000001.tar").unlink()
    with pytest.raises(DatasetError, match=r"shards/000001.tar: shard is missing; restore"):
        inspect_utterance(folder, "utt00002")


def test_wav_that_cannot_be_written_is_the_machines_fault(dataset, tmp_path):
    view = inspect_utterance(dataset.folder, "utt00001")
    with pytest.raises(EnvironmentFault, match=r"nowhere/a.wav: cannot write: No such file or directory"):
        write_wav(view, tmp_path / "nowhere/a.wav")
