"""Tars of others become a dataset: equal to plain WebDataset, nothing lost, nothing rewritten, resumed after a kill."""

import ctypes
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import webdataset as wds

from tests.foreign import QUICK, encode, make_index, run_index, write_jsonl, write_tar
from tests.s3 import BUCKET, upload_folder
from whisper_shard.audio import foreign as foreign_audio
from whisper_shard.audio.recording import Recording
from whisper_shard.audio.resample import resample
from whisper_shard.config.index import IndexConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.schema import KEY_PATTERN
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.errors import DatasetError, ManifestError, StateError
from whisper_shard.prepare import events
from whisper_shard.storage.atomic import AtomicWriter
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.tars import run
from whisper_shard.text.styles import clean_basic

SUFFIXES = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "npy")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """21 utterances in three tars of webdataset's own writer: every format, txt and json, several rates."""
    folder = tmp_path_factory.mktemp("corpus")
    with wds.ShardWriter(str(folder / "train-%06d.tar"), maxcount=7, verbose=0, encoder=False) as writer:
        for number in range(21):
            suffix = SUFFIXES[number % 7]
            rate = 16_000 if suffix == "npy" else 48_000 if suffix == "opus" else (16_000, 22_050, 44_100)[number // 7]
            sample = {
                "__key__": f"part/utt-{number}",
                suffix: encode(0.3 + number / 50, suffix, rate=rate, seed=number),
            }
            text = f"Hello, this is Number {number}!"
            if number % 2:
                sample["txt"] = text.encode()
            else:
                sample["json"] = json.dumps({"text": text, "language": "en", "speaker": f"s{number % 3}"}).encode()
            writer.write(sample)
    return folder


@pytest.fixture(scope="module")
def index(corpus, tmp_path_factory):
    return make_index(corpus, tmp_path_factory.mktemp("index") / "out")


def plain_waveform(suffix, data):
    if suffix == "npy":
        return np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
    if suffix == "m4a":  # soundfile cannot read it
        import av

        with av.open(io.BytesIO(data)) as container:
            frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
            return resample(np.concatenate(frames, axis=1)[0], container.streams.audio[0].rate)
    # Not soundfile.read, which seeks first: that changes the last bit of mp3.
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        return resample(sound.read(dtype="float32"), sound.samplerate)


def test_the_loader_gives_what_plain_webdataset_and_soundfile_give(corpus, index):
    expected = {}
    urls = [str(path) for path in sorted(corpus.glob("*.tar"))]
    for sample in wds.WebDataset(urls, shardshuffle=False, empty_check=False):
        (suffix,) = set(SUFFIXES) & sample.keys()
        text = sample["txt"].decode() if "txt" in sample else json.loads(sample["json"])["text"]
        name = sample["__key__"].rpartition("/")[2]
        expected[name] = (plain_waveform(suffix, sample[suffix]), clean_basic(text))
    assert len(expected) == index.num_utterances == 21
    found = {}
    for batch in open_evaluation(index, batch_size=4):
        for row, key in enumerate(batch.keys):
            if batch.weights[row]:
                waveform = batch.waveforms[row, : int(batch.num_samples[row])].numpy()
                found[key[10:].rpartition("-")[0]] = (waveform, batch.texts[row])
    assert found.keys() == expected.keys()
    for name, (waveform, text) in expected.items():
        assert found[name][1] == text
        assert np.array_equal(found[name][0], waveform), name


def test_the_index_says_what_it_must(corpus, index):
    assert index.is_foreign
    assert [shard.name for shard in index.shards] == [
        os.path.relpath(p, index.folder) for p in sorted(corpus.glob("*"))
    ]
    for number, shard in enumerate(index.shards):
        content = index.shard_path(number).read_bytes()
        assert (shard.num_bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    columns = index.columns("shard", "row", "key", "source", "language", "speaker", "num_chars", "text", "audio_start")
    assert columns["shard"].tolist() == [n // 7 for n in range(21)]
    assert columns["row"].tolist() == [n % 7 for n in range(21)]
    assert all(KEY_PATTERN.fullmatch(key) for key in columns["key"])
    assert columns["language"].tolist() == ["en", None] * 10 + ["en"]
    assert columns["num_chars"].tolist() == list(map(len, columns["text"]))
    assert not columns["audio_start"].any()
    assert index.description.foreign.suffixes == dict.fromkeys(SUFFIXES, 3)
    assert not list(verify_faults(index.folder))


def verify_faults(folder):
    return (event for event in verify_dataset(folder) if isinstance(event, Fault))


def test_the_same_tars_give_the_same_bytes_and_stay_as_they_are(corpus, index, tmp_path):
    before = {path: path.read_bytes() for path in corpus.iterdir()}
    twin = tmp_path / "elsewhere"
    shutil.copytree(corpus, twin / "corpus")
    again = make_index(twin / "corpus", twin / "out", jobs=2)
    for name in ("index.parquet", "lengths.arrow"):
        assert (again.folder / name).read_bytes() == (index.folder / name).read_bytes()
    assert {path: path.read_bytes() for path in corpus.iterdir()} == before
    assert sorted(p.name for p in again.folder.iterdir()) == [
        "dataset.json",
        "index.parquet",
        "lengths.arrow",
        "rejects.parquet",
    ]
    assert str(twin) not in (again.folder / "dataset.json").read_text()


def test_everything_that_is_not_kept_is_named(tmp_path):
    nan = np.full(8_000, np.nan, np.float32)
    file = io.BytesIO()
    np.save(file, nan)
    members = {
        "ok.wav": encode(0.3),
        "ok.txt": b"hello",
        "silent.wav": encode(0.3).ljust(9644, b"\0")[:44] + bytes(9600),
        "silent.txt": b"hello",
        "nan.npy": file.getvalue(),
        "nan.txt": b"hello",
        "long.wav": encode(31.0, rate=8_000),
        "long.txt": b"hello",
        "noise.mp3": b"no audio at all" * 99,
        "noise.txt": b"hello",
        "cut.flac": encode(0.5, "flac")[:-400],
        "cut.txt": b"hello",
        "quiet.wav": encode(0.3),
        "quiet.txt": b"?!",
        "alone.wav": encode(0.3),
        "packed.wav.gz": b"\x1f\x8b",
        "text.json": b"{}",
        "code.pkl": b"\x80\x04\x95",
    }
    write_tar(tmp_path / "a.tar", members)
    *_, done = run_index(tmp_path / "a.tar", tmp_path / "out")
    rejects = {line["source"]: line["reason"] for line in pq.read_table(tmp_path / "out/rejects.parquet").to_pylist()}
    assert rejects == {
        f"../a.tar/{name}": reason
        for name, reason in {
            "silent.wav": "silent",
            "nan.npy": "not_finite",
            "long.wav": "too_long",
            "noise.mp3": "decode_failed",
            "cut.flac": rejects["../a.tar/cut.flac"],
            "quiet.wav": "text_too_short",
            "alone.wav": "no_text",
            "packed.wav.gz": "compressed",
            "text.json": "no_audio",
        }.items()
    }
    assert rejects["../a.tar/cut.flac"] in ("truncated", "decode_failed")
    assert (done.totals.num_utterances, done.totals.rejects.total(), done.totals.num_rows) == (1, 9, 10)
    assert done.totals.unread == {"pkl": 1}
    description = open_dataset(tmp_path / "out").description
    assert description.rejects == done.totals.rejects


def test_a_tar_without_anything_to_keep_is_not_a_shard(tmp_path):
    write_tar(tmp_path / "tars/a.tar", {"a.wav": encode(0.3)})
    write_tar(tmp_path / "tars/b.tar", {"b.wav": encode(0.3), "b.txt": b"hello"})
    write_tar(tmp_path / "tars/c.tar", {})
    dataset = make_index(tmp_path / "tars", tmp_path / "out")
    assert [shard.name for shard in dataset.shards] == ["../tars/b.tar"]
    assert dataset.columns("key")["key"].tolist()[0].startswith("000000001-b-")


def test_no_utterance_and_too_many_rejects_are_errors(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.wav": encode(0.3), "b.wav": encode(0.3)})
    with pytest.raises(ManifestError, match=r"a\.tar: none of its 2 rows can be used: no_text 2; for example row 0, "):
        run_index(tmp_path / "a.tar", tmp_path / "out")
    write_tar(tmp_path / "a.tar", {"a.wav": encode(0.3), "a.txt": b"hello", "b.wav": encode(0.3), "c.wav": b"x"})
    with pytest.raises(ManifestError, match=r"2 of 3 rows are rejected, more than --max-reject-fraction 0\.5 allows"):
        run_index(tmp_path / "a.tar", tmp_path / "out", max_reject_fraction=0.5)
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_hostile_tar_ends_the_run_in_one_line(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.wav": encode(0.3), "a.txt": b"hello"})
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DatasetError, match=r"a\.tar: byte 0: 'a\.wav' has 9644 bytes by its header, 4488 are left$"):
        run_index(path, tmp_path / "out")


def test_texts_of_nemo_and_its_segments(tmp_path):
    for number in range(2):
        write_tar(
            tmp_path / f"audio_{number}.tar", {"one.wav": encode(1.0, seed=number), "two.flac": encode(0.5, "flac")}
        )
    lines = [
        {"audio_filepath": "one.wav", "offset": 0.1, "duration": 0.3, "text": "First.", "shard_id": 0},
        {"audio_filepath": "one-sub1.wav", "offset": 0.6, "duration": 0.4, "text": "Second.", "shard_id": 0},
        {"audio_filepath": "one-sub2.wav", "offset": 0.9, "duration": 2.0, "text": "Beyond.", "shard_id": 0},
        {"audio_filepath": "two.flac", "duration": 0.45, "text": "Whole.", "lang": "en", "shard_id": 1},
    ]
    manifest = write_jsonl(tmp_path / "tarred_audio_manifest.json", lines)
    dataset = make_index(tmp_path, tmp_path / "out", manifest=str(manifest))
    columns = dataset.columns("text", "num_samples", "audio_start", "audio_offset", "language")
    assert columns["text"].tolist() == ["first", "second", "whole"]
    assert columns["num_samples"].tolist() == [4_800, 6_400, 8_000]
    assert columns["audio_start"].tolist() == [1_600, 9_600, 0]
    assert columns["audio_offset"].tolist()[:2] == [512, 512]
    rejects = pq.read_table(tmp_path / "out/rejects.parquet").to_pylist()
    assert sorted((r["reason"], r["detail"][:34]) for r in rejects) == [
        ("bad_segment", "the segment from 0.900 to 2.900 s "),
        ("no_text", "the manifest does not name it"),
        ("no_text", "the manifest does not name it"),
    ]
    (whole,) = (b for b in open_evaluation(dataset, batch_size=3))
    expected = soundfile.read(io.BytesIO(encode(1.0)), dtype="float32")[0]
    first = whole.texts.index("first")
    assert np.array_equal(whole.waveforms[first, :4_800].numpy(), expected[1_600:6_400])
    assert not list(verify_faults(tmp_path / "out"))


def test_an_index_is_not_made_twice_unless_asked(corpus, index):
    with pytest.raises(
        StateError, match=r"out: holds a dataset already; choose another output folder, or give --rebuild"
    ):
        run_index(corpus, index.folder)


def test_rebuild_replaces_an_index(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.wav": encode(0.3), "a.txt": b"Hello"})
    make_index(path, tmp_path / "out")
    again = make_index(path, tmp_path / "out", rebuild=True, text_style="none")
    assert again.columns("text")["text"].tolist() == ["Hello"]


@dataclass(frozen=True, kw_only=True)
class KillAt(AtomicWriter):
    """Ends the main process when the n-th file of a kind is about to get its name."""

    folder: str
    number: int
    pid: int

    def after_step(self, path, step):
        if path.parent.name == self.folder and step == "synced" and path.name.startswith(f"{self.number:06d}"):
            os.kill(self.pid, signal.SIGKILL)
            time.sleep(60)


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "number"), [("tars", 1), ("rows", 2)])
def test_a_killed_run_is_resumed_and_gives_the_same_bytes(corpus, index, tmp_path, folder, number):
    code = (
        "import os\n"
        "from tests.tars.test_run import KillAt, run, IndexConfig, QUICK, Path\n"
        f"writer = KillAt(folder={folder!r}, number={number}, pid=os.getpid())\n"
        f"list(run.index_tars({str(corpus)!r}, Path({str(tmp_path / 'out')!r}), IndexConfig(**QUICK), writer=writer))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out/dataset.json").exists()
    done = {path.relative_to(tmp_path): path.stat().st_mtime_ns for path in tmp_path.rglob("out/.index/*/*.arrow")}
    if (folder, number) != ("tars", 1):
        assert len(done) >= 3
    kept = []
    for event in run.index_tars(str(corpus), tmp_path / "out", IndexConfig(**QUICK)):
        if isinstance(event, run.TarsFound):
            kept = [path for path, mtime in done.items() if (tmp_path / path).stat().st_mtime_ns == mtime]
        assert not isinstance(event, events.Note)
    assert kept == list(done)
    for name in ("index.parquet", "lengths.arrow"):
        assert (tmp_path / "out" / name).read_bytes() == (index.folder / name).read_bytes()
    assert not (tmp_path / "out/.index").exists()


def test_an_unfinished_run_with_other_settings_is_begun_again(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a.wav": encode(0.3), "a.txt": b"Hello"})
    for event in run.index_tars(str(path), tmp_path / "out", IndexConfig(**QUICK)):
        if isinstance(event, events.Progress):
            break
    assert list((tmp_path / "out/.index/tars").iterdir())
    noted, *_ = run_index(path, tmp_path / "out", text_style="written")
    assert "an unfinished run had other tars, settings or libraries; begun again" in noted.message
    assert open_dataset(tmp_path / "out").columns("text")["text"].tolist() == ["Hello"]


class CrashingDecoder:
    """Ends the process that decodes a file which begins with CRASH."""

    def claims(self, head, _suffix, /):
        return head.startswith(b"CRASH")

    def decode(self, file, *, max_seconds):
        if os.environ.get("WHISPER_SHARD_TEST_CRASH"):
            ctypes.string_at(0)
        return Recording(waveform=np.ones(8_000, np.float32), sample_rate=16_000)


@pytest.mark.slow
def test_a_member_that_crashes_its_decoder_is_rejected(tmp_path, monkeypatch):
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / "sitecustomize.py").write_text(
        "from whisper_shard.audio import decoders\n"
        "from tests.tars.test_run import CrashingDecoder\n"
        "decoders.DECODERS = {'crash': CrashingDecoder, **decoders.DECODERS}\n"
        "from whisper_shard.audio import foreign\n"
        "foreign.DECODERS = decoders.DECODERS\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{plugin}:{Path.cwd()}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("WHISPER_SHARD_TEST_CRASH", "1")
    members = {}
    for number in range(4):
        members |= {f"{number}.wav": encode(0.3, seed=number), f"{number}.txt": b"hello"}
    members |= {"bad.wav": b"CRASH", "bad.txt": b"hello"}
    path = write_tar(tmp_path / "a.tar", members)
    found = run_index(path, tmp_path / "out")
    (rejected,) = pq.read_table(tmp_path / "out/rejects.parquet").to_pylist()
    assert (rejected["source"], rejected["reason"]) == ("../a.tar/bad.wav", "decoder_crashed")
    assert found[-1].totals.num_utterances == 4
    assert any("decoder_crashed" in event.message for event in found if isinstance(event, events.Note))
    assert foreign_audio.DECODERS.keys() == {"soundfile", "av"}


def test_tars_in_object_storage(corpus, index, s3, tmp_path):
    upload_folder(corpus, f"s3://{BUCKET}/foreign")
    dataset = make_index(f"s3://{BUCKET}/foreign", tmp_path / "out")
    assert [shard.name for shard in dataset.shards] == [f"s3://{BUCKET}/foreign/train-{n:06d}.tar" for n in range(3)]
    for name in ("index.parquet", "lengths.arrow"):
        assert (tmp_path / "out" / name).read_bytes() == (index.folder / name).read_bytes()
    local, remote = (list(open_evaluation(data, batch_size=8)) for data in (index, dataset))
    for one, other in zip(local, remote, strict=True):
        assert one.keys == other.keys
        assert np.array_equal(one.waveforms.numpy(), other.waveforms.numpy())
    assert not list(verify_faults(tmp_path / "out"))
