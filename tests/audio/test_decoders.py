import errno
import io

import numpy as np
import pytest
import soundfile

from tests.making import make_waveform
from whisper_shard.audio.decoders import DECODERS, decode_recording
from whisper_shard.audio.files import read_recording
from whisper_shard.audio.samples import to_int16
from whisper_shard.errors import AudioError

BUILT_IN = tuple(make() for make in DECODERS.values())
AV_CONTAINERS = {
    "m4a": ("ipod", "aac"),
    "webm": ("webm", "libopus"),
    "mp4": ("mp4", "aac"),
    "mkv": ("matroska", "libopus"),
}


def read(path, max_seconds=600.0):
    return read_recording(str(path), decoders=BUILT_IN, max_seconds=max_seconds)


def write_av(path, container, codec, waveform, rate):
    import av

    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(to_int16(waveform)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "aiff", "au", "caf", "w64", "rf64"])
def test_libsndfile_formats(tmp_path, suffix):
    waveform = make_waveform(1.0)
    soundfile.write(tmp_path / f"a.{suffix}", waveform, 16_000)
    recording = read(tmp_path / f"a.{suffix}")
    assert recording.sample_rate == 16_000
    assert len(recording.waveform) == pytest.approx(16_000, abs=2_500 if suffix == "mp3" else 0)
    assert recording.waveform.dtype == np.float32


@pytest.mark.parametrize("suffix", AV_CONTAINERS)
def test_ffmpeg_formats(tmp_path, suffix):
    container, codec = AV_CONTAINERS[suffix]
    waveform = make_waveform(1.0)
    write_av(tmp_path / f"a.{suffix}", container, codec, waveform, 48_000)
    recording = read(tmp_path / f"a.{suffix}")
    assert recording.sample_rate == 48_000
    shift = np.argmax(np.correlate(recording.waveform, waveform[:8000], "valid"))
    heard = recording.waveform[shift : shift + 8000]
    assert np.corrcoef(heard, waveform[:8000])[0, 1] > 0.9


def test_content_counts_not_the_suffix(tmp_path):
    waveform = make_waveform(0.5)
    soundfile.write(tmp_path / "a.flac", waveform, 16_000)
    (tmp_path / "a.mp3").write_bytes((tmp_path / "a.flac").read_bytes())
    np.testing.assert_array_equal(read(tmp_path / "a.mp3").waveform, read(tmp_path / "a.flac").waveform)
    write_av(tmp_path / "b.m4a", "ipod", "aac", waveform, 16_000)
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.m4a").read_bytes())
    np.testing.assert_array_equal(read(tmp_path / "b.wav").waveform, read(tmp_path / "b.m4a").waveform)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "au", "caf"])
@pytest.mark.parametrize("channels", [1, 2])
def test_values_of_16_bits_are_those_of_libsndfile(tmp_path, suffix, channels):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / f"a.{suffix}", rng.uniform(-1.1, 1.1, (9_999, channels)), 16_000, subtype="PCM_16")
    expected, _ = soundfile.read(tmp_path / f"a.{suffix}", dtype="float32", always_2d=True)
    np.testing.assert_array_equal(read(tmp_path / f"a.{suffix}").waveform, expected.mean(axis=1))


@pytest.mark.parametrize("channels", [2, 3, 24])
def test_channels_are_averaged(tmp_path, channels):
    each = np.stack([make_waveform(0.5, seed=i) for i in range(channels)], axis=1)
    soundfile.write(tmp_path / "a.wav", each, 16_000, subtype="FLOAT", format="WAVEX")
    np.testing.assert_allclose(read(tmp_path / "a.wav").waveform, each.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(("subtype", "tolerance"), [("PCM_U8", 0.01), ("PCM_24", 1e-6), ("ALAW", 0.05), ("ULAW", 0.05)])
def test_sample_formats(tmp_path, subtype, tolerance):
    waveform = make_waveform(0.5)
    soundfile.write(tmp_path / "a.wav", waveform, 16_000, subtype=subtype)
    np.testing.assert_allclose(read(tmp_path / "a.wav").waveform, waveform, atol=tolerance)


def test_too_long_is_refused_by_its_header(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000), 16_000)
    with pytest.raises(AudioError, match=r"at least 2\.0 s before trimming, limit 1 s") as caught:
        read(tmp_path / "a.wav", max_seconds=1.0)
    assert caught.value.reason == "recording_too_long"
    write_av(tmp_path / "a.m4a", "ipod", "aac", make_waveform(2.0), 16_000)
    with pytest.raises(AudioError, match=r"at least 1\.\d s before trimming"):
        read(tmp_path / "a.m4a", max_seconds=1.0)


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (b"", "empty_file", "the file is empty"),
        (b"this is text, not audio", "decode_failed", "Format not recognised"),
        (b"\0\0\0\x10ftypM4A \0\0\0\0", "decode_failed", "Invalid data|End of file|moov"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "truncated", "the container promises 32 bytes, 16 are there"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "decode_failed", "."),
    ],
)
def test_damaged_files_have_a_reason(tmp_path, content, reason, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=message) as caught:
        read(tmp_path / "a.wav")
    assert caught.value.reason == reason


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("suffix", "reason", "message"),
    [
        ("wav", "truncated", r"cut off: the header promises \d+ bytes, \d+ are there"),
        ("aiff", "truncated", r"cut off: the header promises \d+ bytes"),
        ("au", "truncated", r"cut off: the header promises \d+ bytes"),
        ("mp3", "truncated", r"cut off: the header promises 64000 samples, 3[01]\d+ are there"),
        ("flac", "decode_failed", "."),
    ],
)
def test_half_a_recording_is_refused(tmp_path, suffix, reason, message, channels):
    waveform = np.random.default_rng(0).normal(0, 0.1, (64_000, channels)).astype(np.float32)
    soundfile.write(tmp_path / f"a.{suffix}", waveform, 16_000)
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert len(read(tmp_path / f"a.{suffix}").waveform) == 64_000
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=message) as caught:
        read(tmp_path / f"a.{suffix}")
    assert caught.value.reason == reason


@pytest.mark.parametrize("promised", [0x7FFF_F000, 2**31, 2**32 - 1])
def test_lengths_that_a_stream_could_not_fill_in_are_no_promise(tmp_path, promised):
    soundfile.write(tmp_path / "a.wav", make_waveform(0.5), 16_000)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:40] + promised.to_bytes(4, "little") + content[44:])
    assert len(read(tmp_path / "a.wav").waveform) == 8_000


def test_mp3_without_a_frame_count_is_not_held_to_a_guess(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.2, 160_000)
    with soundfile.SoundFile(
        tmp_path / "a.mp3", "w", 16_000, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3
    ) as sound:
        sound.write(np.concatenate([np.zeros(80_000), noise]))
    content = (tmp_path / "a.mp3").read_bytes()
    second_frame = content.index(content[:2], content.index(b"Xing"))
    (tmp_path / "a.mp3").write_bytes(content[second_frame:])
    assert len(read(tmp_path / "a.mp3").waveform) == pytest.approx(240_000, abs=2_500)
    tag = b"ID3\x03\0\0" + bytes([0, 0, 16, 0]) + bytes(2048)
    (tmp_path / "a.mp3").write_bytes(tag + content[: len(content) // 2])
    with pytest.raises(AudioError, match="cut off: the header promises 240000 samples"):
        read(tmp_path / "a.mp3")


def test_zero_samples_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match="decodes to 0 samples"):
        read(tmp_path / "a.wav")


class FailingDisk(io.BytesIO):
    """Gives the first bytes, then fails, as a dying disk does."""

    def read(self, size=-1):
        if self.tell() >= 64:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(64)


def test_failing_disk_is_not_the_recordings_fault():
    content = io.BytesIO()
    soundfile.write(content, make_waveform(0.5), 16_000, format="WAV")
    with pytest.raises(OSError, match="Input/output error"):
        decode_recording(FailingDisk(content.getvalue()), suffix="wav", decoders=[TextDecoder()], max_seconds=600)


class TextDecoder:
    """Cannot read anything."""

    def claims(self, _head, _suffix, /):
        return True

    def decode(self, file, *, max_seconds):
        raise AudioError("not text")


def test_decoders_are_asked_in_order_and_the_first_says_what_is_wrong():
    content = io.BytesIO(b"nothing that anybody could decode")
    with pytest.raises(AudioError, match="not text"):
        decode_recording(content, suffix="txt", decoders=[TextDecoder(), *BUILT_IN], max_seconds=600)
    with pytest.raises(AudioError, match="no decoder for this kind of file"):
        decode_recording(content, suffix="txt", decoders=[], max_seconds=600)
