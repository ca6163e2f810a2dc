import json

import numpy as np
import pytest
import soundfile

from tests.making import make_waveform
from tests.manifests.hub import write_hub
from tests.manifests.reading import write
from tests.prepare.corpora import fingerprint, prepare, totals_of
from whisper_shard.audio.decoders import DECODERS
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.summary import inspect_utterance
from whisper_shard.errors import AudioError, ConfigError
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.manifests.rows import as_rows
from whisper_shard.prepare.pipeline import build_pipeline
from whisper_shard.prepare.plan import read_shard_rows
from whisper_shard.prepare.recordings import RowReader
from whisper_shard.prepare.spool import sort_into_shards, spool_manifest
from whisper_shard.utterance import ManifestRow

RATE = 16_000
LOSSLESS = {"trim_db": 0.0, "peak": 0.0, "min_text_chars": 1}


def make_reader(**settings):
    return build_pipeline(PrepareConfig(**settings)).reader


def row_of(path, **fields):
    return ManifestRow(row=0, source=path.name, path=str(path), transcript="text", **fields)


def make_talks(folder, *, count=3, segments=9):
    """Write long recordings and a manifest of NeMo with segments of them, in random order."""
    lines = []
    for talk in range(count):
        soundfile.write(
            folder / f"talk{talk}.wav", make_waveform(2.0 * segments + 1, seed=talk), RATE, subtype="PCM_16"
        )
        lines += [
            {"audio_filepath": f"talk{talk}.wav", "offset": 2.0 * i, "duration": 1.5, "text": f"talk {talk} part {i}"}
            for i in range(segments)
        ]
    np.random.default_rng(1).shuffle(lines)
    return write(folder / "manifest.json", "\n".join(map(json.dumps, lines)))


def test_each_transcript_gets_its_own_part_of_the_recording(tmp_path):
    corpus = make_talks(tmp_path)
    prepare(corpus, tmp_path / "out", eval_fraction=0.3, **LOSSLESS)
    found = {}
    for name in ("train", "eval"):
        dataset = open_dataset(tmp_path / "out" / name)
        for key, text in zip(*dataset.columns("key", "text").values(), strict=True):
            found[text] = (name, inspect_utterance(dataset.folder, key))
    assert len(found) == 27
    for text, (_, utterance) in found.items():
        _, talk, _, part = text.split()
        start = 2 * int(part) * RATE
        samples, _ = soundfile.read(tmp_path / f"talk{talk}.wav", dtype="int16")
        np.testing.assert_array_equal(utterance.samples, samples[start : start + round(1.5 * RATE)])
        record = utterance.record
        assert (record["start_seconds"], record["end_seconds"]) == (2.0 * int(part), 2.0 * int(part) + 1.5)
        assert record["duration"] == 1.5
    sides = {(text.split()[1], name) for text, (name, _) in found.items()}
    assert len(sides) == 3  # no talk is on both


def test_no_recording_is_decoded_twice_for_a_shard(tmp_path):
    config = PrepareConfig(eval_fraction=0.0)
    spool = spool_manifest(open_manifest(make_talks(tmp_path, count=5), config), tmp_path / "train.spool", config)
    sort_into_shards(spool, tmp_path / "train.arrow", ranks=range(45), shard_rows=12)
    passes = []
    for shard in range(4):
        rows = [row for row, _ in as_rows(read_shard_rows(tmp_path / "train.arrow", shard), folder=tmp_path)]
        reader = build_pipeline(config).reader
        for row in rows:
            assert len(reader.read(row).waveform) == round(1.5 * RATE)
        passes.append((reader.num_passes, len({row.source for row in rows})))
    assert all(found == distinct for found, distinct in passes)
    assert sum(found for found, _ in passes) <= 5 + 3  # again only where a shard ends within a recording


@pytest.mark.slow
def test_segments_survive_a_change_of_the_recording(tmp_path):
    corpus = make_talks(tmp_path)
    prepare(corpus, tmp_path / "out", **LOSSLESS)
    clean = fingerprint(tmp_path / "out/train")
    content = (tmp_path / "talk1.wav").read_bytes()
    write(tmp_path / "talk1.wav", content[: len(content) // 2])
    totals = totals_of(prepare(corpus, tmp_path / "out", **LOSSLESS))
    # What lies in the first half of the recording is kept.
    assert sum(split.rejects.get("truncated", 0) for split in totals.values()) == 5
    write(tmp_path / "talk1.wav", content)
    prepare(corpus, tmp_path / "out", **LOSSLESS)
    assert fingerprint(tmp_path / "out/train") == clean


def test_durations_are_checked(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_waveform(10.0), RATE)
    reader = make_reader()
    for seconds in (9.8, 10.0, 10.24):
        assert len(reader.read(row_of(tmp_path / "a.wav", duration_seconds=seconds)).waveform) == 10 * RATE
    for seconds, words in ((9.7, "10.000 s$"), (3.0, "10.000 s$"), (10_000.0, "milliseconds")):
        with pytest.raises(
            AudioError, match=rf"the manifest says {seconds:.3f} s, the recording has .*{words}"
        ) as caught:
            reader.read(row_of(tmp_path / "a.wav", duration_seconds=seconds))
        assert caught.value.reason == "duration_mismatch"


def test_wrong_durations_are_rejected_with_their_values(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_waveform(2.0), RATE)
    soundfile.write(tmp_path / "b.wav", make_waveform(4.0), RATE)
    lines = ["audio,text,duration", "a.wav,some words here,2.0", "b.wav,other words here,2.0"]
    corpus = write(tmp_path / "c.csv", "\n".join(lines))
    totals = totals_of(prepare(corpus, tmp_path / "out", eval_fraction=0.0, jobs=1))
    assert totals["train"].rejects == {"duration_mismatch": 1}
    totals = totals_of(prepare(corpus, tmp_path / "all", eval_fraction=0.0, jobs=1, ignore_columns=("duration",)))
    assert totals["train"].num_utterances == 2


def test_channels_by_column_and_by_setting(tmp_path):
    left, right = make_waveform(2.0, seed=1), make_waveform(2.0, seed=2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    for settings, channel, waveform in [
        ({}, None, (left + right) * np.float32(0.5)),
        ({}, 1, right),
        ({"channel": "0"}, None, left),
        ({"channel": "0"}, 1, right),
    ]:
        found = make_reader(**settings).read(row_of(tmp_path / "a.wav", channel=channel))
        np.testing.assert_array_equal(found.waveform, waveform)
    with pytest.raises(ConfigError, match=r"--channel left: must be mix, or the number of a channel, counted from 0"):
        PrepareConfig(channel="left")


def test_embedded_recordings_have_segments_and_channels_too(tmp_path):
    path = write_hub(tmp_path / "a.parquet", range(3))
    reader = make_reader()
    whole = reader.read(row_of(path, member=1)).waveform
    part = reader.read(row_of(path, member=1, start_seconds=0.5, end_seconds=1.0)).waveform
    np.testing.assert_array_equal(part, whole[RATE // 2 : RATE])
    np.testing.assert_array_equal(reader.read(row_of(path, member=1, channel=0)).waveform, whole)
    assert not np.array_equal(reader.read(row_of(path, member=2)).waveform, whole)
    reader.close()
    assert len(reader.read(row_of(path, member=0)).waveform) == len(whole)


def test_long_recordings_may_have_short_segments(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_waveform(20.0), RATE)
    reader = RowReader([make() for make in DECODERS.values()], max_seconds=5.0, channel=None, audio_column="")
    assert len(reader.read(row_of(tmp_path / "a.wav", start_seconds=17.0, end_seconds=19.0)).waveform) == 2 * RATE
    for span in [{"start_seconds": 3.0}, {"start_seconds": 3.0, "end_seconds": 9.0}, {}]:
        with pytest.raises(AudioError, match="limit 5 s") as caught:
            reader.read(row_of(tmp_path / "a.wav", **span))
        assert caught.value.reason == "recording_too_long"
