"""Whatever lies on the disk, each row ends as a right utterance or as a reject with a reason; no crash, no hang."""

import os
import random
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from tests.making import make_waveform
from tests.prepare.corpora import prepare, totals_of, write_csv
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.summary import inspect_utterance

FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}


def encode(waveform, suffix, rate=16_000, subtype=None, container=None):
    import io

    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=container or suffix.upper(), subtype=subtype or FORMATS[suffix])
    return file.getvalue()


def mutate(content, draws):
    """Damage a good file in one of the ways files get damaged."""
    kind = draws.randrange(5)
    mutated = bytearray(content)
    if kind == 0:
        del mutated[draws.randrange(len(mutated)) :]
    elif kind == 1:
        for _ in range(draws.choice([1, 3, 30])):
            mutated[draws.randrange(len(mutated))] ^= 1 << draws.randrange(8)
    elif kind == 2:
        for _ in range(draws.choice([1, 4])):
            mutated[draws.randrange(min(64, len(mutated)))] = draws.randrange(256)
    elif kind == 3:
        start = draws.randrange(len(mutated))
        mutated[start : start + draws.randrange(2000)] = bytes(draws.randrange(3000))
    else:
        start = draws.randrange(len(mutated))
        mutated[start:start] = draws.randbytes(draws.randrange(1, 500))
    return bytes(mutated)


def make_mutants(folder, count):
    """Write ``count`` damaged files and return (name, None) for each: nothing is promised about them."""
    draws = random.Random(7)
    good = {suffix: encode(make_waveform(1.3, seed=3), suffix) for suffix in FORMATS}
    good["m4a"] = encode_m4a(folder)
    for i in range(count):
        suffix = draws.choice(list(good))
        (folder / f"mutant{i}.{suffix}").write_bytes(mutate(good[suffix], draws))
        yield f"mutant{i}.{suffix}"


def encode_m4a(folder):
    import av

    with av.open(str(folder / "good.m4a"), "w", format="ipod") as output:
        stream = output.add_stream("aac", rate=16_000, layout="mono")
        samples = np.rint(make_waveform(1.3, seed=3) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    content = (folder / "good.m4a").read_bytes()
    (folder / "good.m4a").unlink()
    return content


def make_oddities(folder):
    """Write odd files; return the reason each must be rejected for, or None and the waveform it must give."""
    waveform = make_waveform(1.3, seed=3)
    wav = encode(waveform, "wav")
    kept = {
        "flac_named.mp3": encode(waveform, "flac"),
        "wav_without_suffix": wav,
        "eight_bit.wav": encode(waveform, "wav", subtype="PCM_U8"),
        "24_bit.wav": encode(waveform, "wav", subtype="PCM_24"),
        "alaw.wav": encode(waveform, "wav", subtype="ALAW"),
        "float.wav": encode(waveform, "wav", subtype="FLOAT"),
        "24_channels.wav": encode(np.repeat(waveform[:, None], 24, axis=1), "wav", container="WAVEX"),
        "192_khz.wav": encode(soxr.resample(waveform, 16_000, 192_000), "wav", rate=192_000),
        "line\nbreak.wav": wav,
        "sp ace, comma \u00e4.wav": wav,
    }
    nan = waveform.copy()
    nan[500] = np.nan
    rejected = {
        "text.wav": (b"this is a text, not audio", "decode_failed"),
        "empty.wav": (b"", "empty_file"),
        "nan.wav": (encode(nan, "wav", subtype="FLOAT"), "not_finite"),
        "zero_samples.wav": (encode(waveform[:0], "wav"), "empty_audio"),
        "silent.wav": (encode(waveform * 0, "wav"), "silent"),
        "zero_channels.wav": (wav[:22] + b"\0\0" + wav[24:], "decode_failed"),
        "zero_rate.wav": (wav[:24] + bytes(4) + wav[28:], None),
        "absurd_rate.wav": (wav[:24] + struct.pack("<I", 2**31 - 1) + wav[28:], "bad_sample_rate"),
        "an_hour.wav": (encode(np.zeros(3600 * 1000), "wav", rate=1000), "recording_too_long"),
    }
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    for name, (content, _) in rejected.items():
        (folder / name).write_bytes(content)
    (folder / "folder.wav").mkdir()
    (folder / "dangling.wav").symlink_to(folder / "nowhere.wav")
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    os.mkfifo(folder / "pipe.wav")
    reasons = {
        **{name: reason for name, (_, reason) in rejected.items()},
        "folder.wav": "not_a_file",
        "dangling.wav": "missing_file",
        "loop.wav": "missing_file",
        "pipe.wav": "not_a_file",
        "never_was.wav": "missing_file",
        "x" * 5000 + ".wav": "missing_file",
    }
    return list(kept), reasons


def test_more_than_two_hundred_malformed_inputs(tmp_path):
    folder = tmp_path / "audios"
    folder.mkdir()
    kept, reasons = make_oddities(folder)
    names = [*make_mutants(folder, 240), *kept, *reasons]
    corpus = write_csv(tmp_path / "corpus.csv", [(f"audios/{name}", "a text that is long enough") for name in names])
    totals = totals_of(prepare(corpus, tmp_path / "out", eval_fraction=0.0, max_reject_fraction=1.0))["train"]
    assert totals.num_utterances + totals.num_rejects == len(names)
    rejects = {r["source"][7:]: r for r in pq.read_table(tmp_path / "out/train/rejects.parquet").to_pylist()}
    assert all(reject["reason"] and reject["detail"] for reject in rejects.values())
    assert not {"decoder_crashed", "decoder_timeout", "decoder_out_of_memory"} & set(totals.rejects)
    for name, reason in reasons.items():
        assert name in rejects, name
        assert reason in (None, rejects[name]["reason"]), (name, rejects[name])
    assert not set(kept) & set(rejects)
    check_samples(tmp_path / "out/train", kept)


def check_samples(folder, kept):
    """Compare what is stored of odd but sound files with the waveform they were made of."""
    columns = open_dataset(folder).columns("key", "source")
    keys = {source[7:]: key for key, source in zip(columns["key"], columns["source"], strict=True)}
    expected = make_waveform(1.3, seed=3)
    for name in kept:
        found = inspect_utterance(folder, keys[name]).samples / 32767
        assert len(found) == pytest.approx(len(expected), abs=1)
        assert np.corrcoef(found[: len(expected) - 1], expected[: len(found)][: len(expected) - 1])[0, 1] > 0.98, name


def test_unreadable_file_is_rejected_where_permissions_count(tmp_path):
    if os.geteuid() == 0:
        check_as_nobody(tmp_path)
        return
    path = tmp_path / "a.wav"
    soundfile.write(path, make_waveform(1.3), 16_000)
    path.chmod(0)
    corpus = write_csv(tmp_path / "corpus.csv", [("a.wav", "a text that is long enough")])
    with pytest.raises(Exception, match="permission_denied 1"):
        prepare(corpus, tmp_path / "out", jobs=1)


def check_as_nobody(tmp_path):
    """Root may read everything, so a thread of its own (Linux: credentials are per thread) gives that up."""
    import ctypes

    from whisper_shard.audio.files import open_recording
    from whisper_shard.errors import AudioError

    path = tmp_path / "a.wav"
    soundfile.write(path, make_waveform(1.3), 16_000)
    path.chmod(0)

    def attempt():
        if ctypes.CDLL(None, use_errno=True).syscall(122, 65534):  # setfsuid of x86-64
            pytest.skip("cannot change the file-system user here")
        try:
            open_recording(str(path)).close()
        except AudioError as error:
            return error.reason
        return "read"

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(attempt).result() in ("permission_denied", "missing_file")
