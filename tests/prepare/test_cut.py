"""Recordings without a text become utterances, in the workers, by the command's own way."""

import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.audio.talks import make_talk
from tests.prepare.corpora import fingerprint, prepare, totals_of, write_csv
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.dataset.views import filter_dataset
from whisper_shard.errors import ConfigError
from whisper_shard.prepare.cut import CutRow, prepare_results
from whisper_shard.prepare.estimate import estimate_corpus
from whisper_shard.prepare.pipeline import build_pipeline
from whisper_shard.utterance import ManifestRow, Rejection, Utterance

CUT = {"segment": "vad", "eval_fraction": 0.0, "max_seconds": 8.0}


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """Two talks, one of them in stereo at 44.1 kHz, silence, and a talk that is cut off."""
    folder = tmp_path_factory.mktemp("cut") / "talks"
    folder.mkdir()
    talk, _ = make_talk([1.0, 0.5, 0.5, 3.0, 0.5, 0.5, 0.5, 0.5])
    soundfile.write(folder / "a.flac", talk, 16_000)
    soundfile.write(folder / "b.wav", np.repeat(talk, 3)[:, None].repeat(2, 1), 48_000)
    soundfile.write(folder / "c.wav", np.zeros(80_000), 16_000)
    (folder / "d.wav").write_bytes((folder / "b.wav").read_bytes()[: 48_000 * 4 * 11])
    return folder


@pytest.fixture(scope="module")
def prepared(talks, tmp_path_factory):
    out = tmp_path_factory.mktemp("cut-out")
    return out, prepare(talks, out, jobs=1, **CUT)


def test_utterances_have_the_audio_of_their_times_and_no_text(talks, prepared):
    out, events = prepared
    totals = totals_of(events)["train"]
    assert (totals.num_rows, dict(totals.rejects)) == (4, {"no_speech": 1, "truncated": 1})
    assert totals.num_utterances == totals.num_without_text == 7
    length = sum(soundfile.info(talks / name).duration for name in ("a.flac", "b.wav", "c.wav"))
    assert totals.seconds_in == pytest.approx(length + 11, abs=0.01)
    index = pq.read_table(out / "train/index.parquet").to_pylist()
    assert {row["text"] for row in index} == {""}
    assert len({row["key"] for row in index}) == len(index)
    audio, _ = soundfile.read(talks / "a.flac", dtype="float32")
    found = [row for row in index if row["source"] == "a.flac"]
    assert [row["key"][-5:] for row in sorted(found, key=lambda row: row["start_seconds"])] == [
        f"{i:05d}" for i in range(len(found))
    ]
    dataset = open_dataset(out / "train")
    assert not [fault for fault in verify_dataset(dataset.folder) if isinstance(fault, Fault)]
    assert all(1.0 < row["end_seconds"] - row["start_seconds"] < 8.0 for row in index)
    row = found[0]
    expected = audio[round(row["start_seconds"] * 16_000) : round(row["end_seconds"] * 16_000)]
    assert row["num_samples"] == len(expected)  # QUICK does not trim
    rejects = pq.read_table(out / "train/rejects.parquet").to_pylist()
    assert any("nobody speaks in its 5.0 s" in row["detail"] for row in rejects)
    assert any("cut before that: 1 utterance" in row["detail"] for row in rejects)


def test_the_bytes_depend_on_nothing_but_the_corpus(talks, prepared, tmp_path):
    out, _ = prepared
    events = prepare(talks, tmp_path / "again", jobs=2, **CUT)
    assert totals_of(events)["train"].num_rows == 4
    (tmp_path / "again/train/shards/000000.tar").unlink()
    prepare(talks, tmp_path / "again", jobs=2, **CUT)
    assert fingerprint(tmp_path / "again/train") == fingerprint(out / "train")


def test_views_choose_by_the_times(prepared, tmp_path):
    out, _ = prepared
    filter_dataset(out / "train", tmp_path / "view", "start_seconds < 5 and source == 'a.flac'")
    assert open_dataset(tmp_path / "view").num_utterances == 1


def test_texts_of_rows_stay_with_them(talks, tmp_path):
    rows = [
        ("a.flac", "", "", ""),  # cut
        ("a.flac", "", 1.0, 2.5),  # a segment that gets its text later
        ("a.flac", "what is said in it", 1.0, 2.5),
        ("a.flac", "a text of all of it", "", ""),
    ]
    corpus = write_csv(
        talks.parent / "list.csv",
        [(f"talks/{row[0]}", *row[1:]) for row in rows],
        header=("path", "text", "start", "end"),
    )
    totals = totals_of(prepare(corpus, tmp_path / "out", **CUT, min_text_chars=6))["train"]
    assert dict(totals.rejects) == {"too_long": 1}
    index = pq.read_table(tmp_path / "out/train/index.parquet").to_pylist()
    assert sorted(row["text"] for row in index)[-2:] == ["", "what is said in it"]
    assert {(row["start_seconds"], row["end_seconds"]) for row in index} >= {(1.0, 2.5)}
    assert totals.num_without_text == len(index) - 1


def test_nothing_is_cut_without_the_flag(talks, tmp_path):
    pipeline = build_pipeline(PrepareConfig(min_text_chars=0, max_seconds=8.0, trim_db=0))
    (result,) = prepare_results(row_of(talks / "a.flac"), pipeline)
    assert isinstance(result, Rejection)
    assert result.detail.endswith("offset and duration, or (where it has no text) --segment vad divide it")
    assert build_pipeline(PrepareConfig()).cutter is None


def row_of(path):
    return ManifestRow(row=0, source=path.name, path=str(path), transcript="")


def test_all_of_a_recording_is_accounted_for(talks):
    pipeline = build_pipeline(PrepareConfig(segment="vad", max_seconds=8.0, min_seconds=2.0, trim_db=0))
    *parts, whole = prepare_results(row_of(talks / "a.flac"), pipeline)
    assert isinstance(whole, CutRow) and whole.rejection is None and whole.share == 1.0
    kept = [part for part in parts if isinstance(part, Utterance)]
    assert whole.num_kept == len(kept)
    assert whole.kept_seconds == pytest.approx(sum(part.recording_seconds for part in kept), abs=1e-3)
    used = sum(part.recording_seconds if isinstance(part, Utterance) else part.seconds for part in parts)
    assert used + whole.rest_seconds == pytest.approx(whole.seconds, abs=1e-3)
    assert whole.seconds == pytest.approx(soundfile.info(talks / "a.flac").duration, abs=1e-3)


def test_a_part_of_a_recording_tells_its_size(talks):
    pipeline = build_pipeline(PrepareConfig(segment="vad", max_seconds=4.0, trim_db=0))
    *parts, whole = prepare_results(row_of(talks / "b.wav"), pipeline, max_seconds=2.0)
    assert len(parts) >= 1
    assert 0.0 < whole.share <= 1.0


def test_a_dry_run_estimates(talks, tmp_path):
    found = estimate_corpus(talks, PrepareConfig(jobs=1, **CUT))
    assert found.num_rows == 4
    assert 20 < found.hours * 3600 < 60
    assert [probe.rejection and probe.rejection.reason for probe in found.first] == [None, None, "no_speech", None]


def test_what_is_missing_is_named_before_anything_is_written(talks, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(ConfigError, match=r"finding speech needs silero_vad: pip install 'whisper-shard\[vad\]'"):
        prepare(talks, tmp_path / "out", **CUT)
    assert not (tmp_path / "out").exists()
