import io
import random

import numpy as np
import pytest
import soundfile

from tests.audio.recordings import make_noise, read
from whisper_shard.audio.flac import StreamInfo, _encode_number, ends_with_last_frame, read_stream_info
from whisper_shard.errors import AudioError

AUDIO = 86  # bytes of metadata that libsndfile writes before the first frame, and less


@pytest.fixture
def path(tmp_path):
    soundfile.write(tmp_path / "a.flac", make_noise(160_000), 16_000)
    return tmp_path / "a.flac"


def claim(content, num_samples):
    return content[:21] + bytes([content[21] & 0xF0]) + num_samples.to_bytes(4, "big") + content[26:]


def damage(content, kind):
    middle = len(content) // 2
    return {
        "cut": content[:middle],
        "cut by a little": content[:-100],
        "zeroed": content[:middle] + bytes(3_000) + content[middle + 3_000 :],
        "without a piece": content[:middle] + content[middle + 20_000 :],
        "a changed bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "twice a piece": content[:middle] + content[middle - 20_000 :],
        "counts half": claim(content, 80_000),
        "counts a frame less": claim(content, 160_000 - 4096),
        "counts more": claim(content, 160_001),
    }[kind]


KINDS = [
    "cut", "cut by a little", "zeroed", "without a piece", "a changed bit", "twice a piece", "counts half",
    "counts a frame less", "counts more",
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_wherever_it_is(path, kind, channels):
    soundfile.write(path, make_noise(160_000, channels), 16_000)
    content = path.read_bytes()
    assert len(read(path).waveform) == 160_000
    path.write_bytes(damage(content, kind))
    with pytest.raises(
        AudioError, match=r"damaged: its header counts|cut off: the header|damaged or cut off"
    ) as caught:
        read(path)
    assert caught.value.reason in ("decode_failed", "truncated")


def test_every_changed_bit_of_the_audio_is_found(path):
    content, draws = path.read_bytes(), random.Random(0)
    for _ in range(60):
        place = draws.randrange(AUDIO, len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << draws.randrange(8)]) + content[place + 1 :])
        try:
            assert len(read(path).waveform) == 160_000
        except AudioError:
            continue
        assert place < content.index(b"\xff\xf8")  # a tag


def test_every_cut_between_two_frames_is_found(path):
    content = path.read_bytes()
    places = [i for i in range(AUDIO, len(content)) if content[i : i + 2] == b"\xff\xf8"]
    assert len(places) > 35
    for place in places[1:]:
        path.write_bytes(content[:place])
        with pytest.raises(AudioError, match=r"cut off: the header promises 160000 samples|damaged or cut off"):
            read(path)


@pytest.mark.parametrize("num_samples", [1, 4095, 4096, 4097, 4096 * 127, 4096 * 128, 4096 * 128 + 1, 4096 * 3000])
@pytest.mark.parametrize("channels", [1, 2])
def test_whole_files_of_any_length_pass(tmp_path, num_samples, channels):
    noise = np.tile(make_noise(4096, channels), (num_samples // 4096 + 1,) + (1,) * (channels - 1))[:num_samples]
    soundfile.write(tmp_path / "a.flac", noise, 16_000, subtype="PCM_S8")
    assert len(read(tmp_path / "a.flac", max_seconds=10_000).waveform) == num_samples


def test_tags_around_the_audio_are_no_damage(path):
    content = path.read_bytes()
    path.write_bytes(b"ID3\x04\0\0\0\0\x10\0" + bytes(2048) + content + b"TAG" + bytes(125))
    assert len(read(path).waveform) == 160_000


def test_header_is_read_or_missing():
    body = b"\x10\0\x10\0" + bytes(3) + b"\0\x30\0" + b"\x03\xe8\x01\xf1" + bytes(3) + b"\x07" + bytes(16)
    info = read_stream_info(io.BytesIO(b"fLaC\0\0\0\x22" + body))
    assert info == StreamInfo(block_size=4096, max_frame_bytes=12_288, num_samples=(1 << 32) + 7)
    varied = read_stream_info(io.BytesIO(b"fLaC\0\0\0\x22\0\x10" + body[2:]))
    assert varied is not None and varied.block_size == 0
    for head in (b"", b"fLaC", b"fLaC\x01\0\0\x22" + bytes(34), b"RIFF" + bytes(60)):
        assert read_stream_info(io.BytesIO(head)) is None


def test_where_the_header_does_not_say_enough_nothing_is_compared():
    for block_size, num_samples in ((0, 5), (4096, 0)):
        info = StreamInfo(block_size=block_size, max_frame_bytes=0, num_samples=num_samples)
        assert ends_with_last_frame(io.BytesIO(bytes(100)), info)
    assert not ends_with_last_frame(io.BytesIO(bytes(100)), StreamInfo(block_size=16, max_frame_bytes=0, num_samples=5))


def test_numbers_are_encoded_as_in_utf_8_and_beyond():
    for number in (0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF):
        assert _encode_number(number) == chr(number).encode()
    assert _encode_number((1 << 31) - 1) == b"\xfd" + b"\xbf" * 5
    assert _encode_number((1 << 36) - 1) == b"\xfe" + b"\xbf" * 6
