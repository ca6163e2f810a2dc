import io

import numpy as np
import pytest
import soundfile

from tests.audio.recordings import read, write_av
from tests.making import make_waveform
from whisper_shard.audio.truncation import find_cut
from whisper_shard.errors import AudioError

WRITTEN = {
    "w64": {},
    "rf64": {},
    "caf": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
MUXED = {
    "avi": ("avi", "mp3"),
    "m4a": ("ipod", "aac"),
    "webm": ("webm", "libopus"),
    "mkv": ("matroska", "libopus"),
    "ogx": ("ogg", "libopus"),
}


def make_content(folder, suffix):
    path = folder / f"whole.{suffix}"
    waveform = make_waveform(3.0)
    if suffix in WRITTEN:
        soundfile.write(path, waveform, 16_000, **WRITTEN[suffix])
    else:
        write_av(path, *MUXED[suffix], waveform, 48_000)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [*WRITTEN, *MUXED])
def test_cut_file_is_refused_wherever_it_is_cut(tmp_path, suffix):
    content = make_content(tmp_path, suffix)
    assert find_cut(io.BytesIO(content)) is None
    assert len(read(tmp_path / f"whole.{suffix}").waveform)
    for share in (0.3, 0.6, 0.9, 0.99):
        (tmp_path / f"cut.{suffix}").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(AudioError, match=r"cut off: (the (container|header) promises|its last Ogg page)") as caught:
            read(tmp_path / f"cut.{suffix}")
        assert caught.value.reason == "truncated"


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_ogg_that_is_cut_between_two_pages_has_no_end(tmp_path, suffix):
    content = make_content(tmp_path, suffix)
    (tmp_path / "a.ogg").write_bytes(content[: content.rindex(b"OggS")])
    with pytest.raises(AudioError, match="its last Ogg page is not marked as the end of the stream"):
        read(tmp_path / "a.ogg")
    assert find_cut(io.BytesIO(content + b"TAG" + bytes(125))) is None


def test_moov_box_before_the_audio_does_not_hide_a_cut(tmp_path):
    content = make_content(tmp_path, "m4a")
    moov = content.index(b"moov") - 4
    mdat = content.index(b"mdat") - 4
    front = content[:mdat] + content[moov:] + content[mdat:moov]
    assert find_cut(io.BytesIO(front)) is None
    assert (
        find_cut(io.BytesIO(front[:-1]))
        == f"cut off: the container promises {len(front)} bytes, {len(front) - 1} are there"
    )


def test_lengths_that_are_not_given_are_no_promise(tmp_path):
    m4a = make_content(tmp_path, "m4a")
    mdat = m4a.index(b"mdat") - 4
    assert find_cut(io.BytesIO(m4a[:mdat] + bytes(4) + m4a[mdat + 4 : -500])) is None  # 0: up to the end of the file
    webm = make_content(tmp_path, "webm")
    size = webm.index(b"\x18\x53\x80\x67") + 4
    assert find_cut(io.BytesIO(webm[:size] + b"\x01" + b"\xff" * 7 + webm[size + 8 : -500])) is None
    caf = make_content(tmp_path, "caf")
    data = caf.index(b"data") + 4
    assert find_cut(io.BytesIO(caf[:data] + b"\xff" * 8 + caf[data + 8 : -500])) is None


def test_noise_behind_a_known_beginning_does_no_harm():
    rng = np.random.default_rng(0)
    heads = [b"OggS", b"RF64", b"riff", b"caff", b"\0\0\0\x18ftyp", b"\x1aE\xdf\xa3", b"RIFF\0\1\0\0AVI "]
    heads.append(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"))
    for head in heads:
        for size in (0, 1, 3, 20, 60, 500, 70_000):
            answer = find_cut(io.BytesIO(head + rng.bytes(size)))
            assert answer is None or answer.startswith("cut off: ")
