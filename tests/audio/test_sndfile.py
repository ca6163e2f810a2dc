import numpy as np
import pytest
import soundfile

from tests.audio.recordings import make_noise, read, write_av
from tests.making import make_waveform
from whisper_shard.errors import AudioError


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "aiff", "au", "caf", "w64", "rf64"])
def test_libsndfile_formats(tmp_path, suffix):
    waveform = make_waveform(1.0)
    soundfile.write(tmp_path / f"a.{suffix}", waveform, 16_000)
    recording = read(tmp_path / f"a.{suffix}")
    assert recording.sample_rate == 16_000
    assert len(recording.waveform) == pytest.approx(16_000, abs=2_500 if suffix == "mp3" else 0)
    assert recording.waveform.dtype == np.float32


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


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("suffix", "reason", "message"),
    [
        ("wav", "truncated", r"cut off: the header promises \d+ bytes, \d+ are there"),
        ("aiff", "truncated", r"cut off: the header promises \d+ bytes"),
        ("au", "truncated", r"cut off: the header promises \d+ bytes"),
        ("mp3", "truncated", r"cut off: the header promises 64000 samples, 3[01]\d+ are there"),
        ("flac", "decode_failed", "lost sync|MD5"),
    ],
)
def test_half_a_recording_is_rejected(tmp_path, suffix, reason, message, channels):
    waveform = make_noise(64_000, channels)
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


def test_mp3_without_a_frame_count_is_not_compared_with_a_guess(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.2, 160_000)
    with soundfile.SoundFile(
        tmp_path / "a.mp3", "w", 16_000, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3
    ) as sound:
        sound.write(np.concatenate([np.zeros(80_000), noise]))
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(without_count(tmp_path / "a.mp3"))
    assert len(read(tmp_path / "a.mp3").waveform) == pytest.approx(240_000, abs=2_500)
    tag = b"ID3\x03\0\0" + bytes([0, 0, 16, 0]) + bytes(2048)
    (tmp_path / "a.mp3").write_bytes(tag + content[: len(content) // 2])
    with pytest.raises(AudioError, match="cut off: the header promises 240000 samples"):
        read(tmp_path / "a.mp3")


def test_mp3_whose_end_libsndfile_does_not_reach_is_read_by_ffmpeg(tmp_path):
    """Half of it is mono, half is stereo; libsndfile ends where that changes, and without a word."""
    for name, channels in (("mono", 1), ("stereo", 2)):
        with soundfile.SoundFile(tmp_path / f"{name}.mp3", "w", 16_000, channels, format="MP3") as sound:
            sound.write(make_noise(64_000, channels))
    mono, stereo = (without_count(tmp_path / f"{name}.mp3") for name in ("mono", "stereo"))
    (tmp_path / "a.mp3").write_bytes(mono + stereo)
    assert len(soundfile.read(tmp_path / "a.mp3")[0]) < 70_000
    assert len(read(tmp_path / "a.mp3").waveform) == pytest.approx(128_000, abs=5_000)


def without_count(path):
    """Return an mp3 file without its first frame, which says how many there are."""
    content = path.read_bytes()
    second = content.index(content[:2], max(content.find(b"Xing"), content.find(b"Info")))
    return content[second:]


def test_an_mp3_tag_behind_the_audio_is_no_lost_audio(tmp_path):
    soundfile.write(tmp_path / "a.mp3", make_noise(64_000), 16_000)
    audio = without_count(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(audio)
    num_samples = len(read(tmp_path / "a.mp3").waveform)
    items = b"Title\0".rjust(14, b"\0") + bytes(20_000)
    header = b"APETAGEX" + (2000).to_bytes(4, "little") + (len(items) + 32).to_bytes(4, "little") + b"\x01\0\0\0"
    tag = header + b"\0\0\0\xa0" + bytes(8) + items + header + b"\0\0\0\x80" + bytes(8)
    (tmp_path / "a.mp3").write_bytes(audio + tag)
    assert len(read(tmp_path / "a.mp3").waveform) == pytest.approx(num_samples, abs=1_200)


def test_layers_1_and_2_are_read(tmp_path):
    write_av(tmp_path / "a.mp2", "mp2", "mp2", make_waveform(2.0), 16_000)
    recording = read(tmp_path / "a.mp2")
    assert (recording.sample_rate, len(recording.waveform)) == (16_000, pytest.approx(32_000, abs=1_200))
    frame = b"\xff\xff\x18\xc4" + bytes(44)  # layer I, 32 kbit/s, 32 kHz, mono: all bands are empty
    (tmp_path / "a.mp1").write_bytes(frame * 50)
    recording = read(tmp_path / "a.mp1")
    assert (recording.sample_rate, len(recording.waveform)) == (32_000, pytest.approx(50 * 384, abs=400))


def test_the_reason_for_a_single_mp3_frame_is_not_that_the_file_is_missing(tmp_path):
    soundfile.write(tmp_path / "a.mp3", make_noise(64_000), 16_000)
    audio = without_count(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(audio[: audio.index(audio[:2], 4)])
    with pytest.raises(AudioError, match="no two consecutive MPEG audio frames"):
        read(tmp_path / "a.mp3")


def test_mp3_that_begins_with_the_rest_of_a_frame_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", make_noise(64_000), 16_000)
    audio = without_count(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(bytes(136) + audio[40:])
    assert len(read(tmp_path / "a.mp3").waveform) == pytest.approx(63_000, abs=3_000)
