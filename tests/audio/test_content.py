import io

import numpy as np
import pytest
import soundfile

from tests.audio.hostile import make_texts
from tests.audio.recordings import make_noise
from whisper_shard.audio.content import find_demuxer, find_demuxer_of_file, is_only_for_ffmpeg, skip_id3

LAYER_3 = b"\xff\xfb\x90\x64"
ADTS = b"\xff\xf1\x4c\x40"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x1cftypM4A ", "mov"),
        (b"\x1aE\xdf\xa3\x9fB\x86", "matroska"),
        (b"#!AMR-WB\n", "amr"),
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
        (b"RIFF\0\0\0\0AVI LIST", "avi"),
        (LAYER_3, "mp3"),
        (b"\xff\xfd\x90\x64", "mp3"),
        (b"\xff\xff\x18\xc4", "mp3"),
        (ADTS, "aac"),
        (b"G" + bytes(187) + b"G", "mpegts"),
        (b"G" + bytes(187) + b"H", None),
        (b"\xff\xfb\xf0\x64", None),  # no such bit rate
        (b"\xff\xeb\x90\x64", None),  # no such version
        (b"\xff\xd8\xff\xe0\0\x10JFIF", None),
        (b"fLaC\0\0\0\x22", None),  # libsndfile reads it, and what libsndfile does not read is damaged
        (b"", None),
        (b"\xff", None),
        (bytes(256), None),
    ],
)
def test_the_beginning_decides(head, name):
    assert find_demuxer(head) == name
    assert find_demuxer_of_file(io.BytesIO(head)) == name


def test_no_text_has_a_demuxer():
    for name, text in make_texts("/x.wav", "http://host/x.wav").items():
        for padded in (text, b"\n" + text, b"\xef\xbb\xbf" + text, b"ID3\x04\0\0\0\0\0\0" + text):
            assert find_demuxer_of_file(io.BytesIO(padded)) is None, name


def test_noise_has_no_demuxer():
    rng = np.random.default_rng(0)
    assert all(find_demuxer_of_file(io.BytesIO(b"x" + rng.bytes(50_000))) is None for _ in range(30))


def test_only_what_libsndfile_does_not_know_is_kept_from_it():
    assert is_only_for_ffmpeg(b"\x1aE\xdf\xa3") and is_only_for_ffmpeg(ADTS)
    assert not any(map(is_only_for_ffmpeg, (b"fLaC", LAYER_3, b"OggS", b"RIFF\0\0\0\0WAVE", b"", b"text")))


@pytest.mark.parametrize(("frame", "name"), [(LAYER_3, "mp3"), (ADTS, "aac"), (b"#EXTM3U\n", None), (b"OggS", None)])
def test_a_tag_in_front_is_skipped(frame, name):
    tag = b"ID3\x04\0\0\0\0\x02\x01" + bytes(257)
    assert skip_id3(io.BytesIO(tag + frame)) == len(tag)
    assert find_demuxer_of_file(io.BytesIO(tag + frame)) == name
    assert skip_id3(io.BytesIO(frame)) == 0
    assert skip_id3(io.BytesIO(b"ID3\x04\0\x10\0\0\x02\x01")) == 277  # with a footer


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_100, 48_000])
def test_frames_of_mp3_are_found_behind_something_else(tmp_path, rate):
    soundfile.write(tmp_path / "a.mp3", make_noise(20_000), rate)
    content = (tmp_path / "a.mp3").read_bytes()
    assert find_demuxer_of_file(io.BytesIO(b"the end of a frame" + content)) == "mp3"
    assert find_demuxer_of_file(io.BytesIO(b"the end of a frame" + content[:60])) is None
