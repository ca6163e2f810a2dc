import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.audio.hostile import make_mov, make_texts
from tests.audio.recordings import read, write_av
from tests.making import make_waveform
from whisper_shard.errors import AudioError

AV_CONTAINERS = {
    "m4a": ("ipod", "aac"),
    "webm": ("webm", "libopus"),
    "mp4": ("mp4", "aac"),
    "mkv": ("matroska", "libopus"),
    "aac": ("adts", "aac"),
    "flv": ("flv", "aac"),
    "avi": ("avi", "mp3"),
    "ts": ("mpegts", "aac"),
    "mpg": ("mpeg", "mp2"),
    "ac3": ("ac3", "ac3"),
    "wv": ("wv", "wavpack"),
    "tta": ("tta", "tta"),
    "caf": ("caf", "alac"),
}


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


def test_wma_is_read_and_a_cut_is_found(tmp_path):
    write_av(tmp_path / "a.wma", "asf", "wmav2", make_waveform(3.0), 16_000, frame_size=2048)
    content = (tmp_path / "a.wma").read_bytes()
    assert len(read(tmp_path / "a.wma").waveform) == pytest.approx(48_000, abs=4_096)
    (tmp_path / "a.wma").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="cut off: the container promises") as caught:
        read(tmp_path / "a.wma")
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_webm_whose_size_is_unknown_is_compared_with_its_duration(tmp_path, share):
    write_av(tmp_path / "a.webm", "webm", "libopus", make_waveform(15.0), 48_000)
    content = (tmp_path / "a.webm").read_bytes()
    place = content.index(b"\x18\x53\x80\x67") + 4  # size of the segment, as a live stream has it
    content = content[:place] + b"\x01" + b"\xff" * 7 + content[place + 8 :]
    (tmp_path / "a.webm").write_bytes(content)
    assert len(read(tmp_path / "a.webm").waveform) == pytest.approx(240_000, rel=0.01)
    (tmp_path / "a.webm").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AudioError, match=r"cut off: the container promises 5\.01 s, \d\.\d\d s are there") as caught:
        read(tmp_path / "a.webm")
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("suffix", AV_CONTAINERS)
def test_a_file_cut_anywhere_gives_audio_or_one_error(tmp_path, suffix):
    write_av(tmp_path / f"a.{suffix}", *AV_CONTAINERS[suffix], make_waveform(1.0), 48_000)
    content = (tmp_path / f"a.{suffix}").read_bytes()
    for length in np.linspace(1, len(content), 25, dtype=int):
        (tmp_path / "cut").write_bytes(content[:length])
        try:
            assert len(read(tmp_path / "cut").waveform)
        except AudioError as error:
            assert "\n" not in str(error)


def test_files_that_refer_to_others_open_nothing(tmp_path):
    """What they refer to is a pipe that nobody writes to: opening it would last until the time limit."""
    os.mkfifo(target := tmp_path / "target.wav")
    (folder := tmp_path / "files").mkdir()
    soundfile.write(folder / "0.wav", make_waveform(0.5), 16_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        texts = make_texts(str(target), f"http://127.0.0.1:{server.getsockname()[1]}/x.wav")
        files = {**texts, **make_mov(tmp_path, target)}
        for i, (name, content) in enumerate(files.items()):
            (folder / f"{name}.{('wav', 'mp3', 'm4a', 'm3u8')[i % 4]}").write_bytes(content)
        command = [sys.executable, "-m", "tests.audio.watched", str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        with pytest.raises(BlockingIOError):
            server.accept()
    found = json.loads(ran.stdout)
    assert not found["sockets"]
    assert not [name for name in found["open"] if name.startswith("socket:") or name == str(target)]
    outcomes = {name.partition(".")[0]: outcome for name, outcome in found["outcomes"].items()}
    assert {outcomes[name] for name in texts} == {"decode_failed"}
    assert outcomes["mov-alias"] in ("decode_failed", "empty_audio")
    assert outcomes["mov-url"] in ("decode_failed", "empty_audio", 17_408)  # its own samples


@pytest.mark.parametrize(
    ("name", "demuxer", "message"),
    [
        ("hls-url", "hls", "refers to another file: 'http://localhost/x.wav'"),
        ("concat-path", "concat", "Operation not permitted|Invalid argument"),
        ("sdp", "sdp", "Invalid data"),
    ],
)
def test_a_demuxer_that_follows_references_would_not_get_far(monkeypatch, tmp_path, name, demuxer, message):
    (tmp_path / "a.wav").write_bytes(make_texts("/dev/zero", "http://localhost/x.wav")[name])
    monkeypatch.setattr("whisper_shard.audio.ffmpeg.find_demuxer_of_file", lambda _file: demuxer)
    with pytest.raises(AudioError, match=message):
        read(tmp_path / "a.wav")


def test_streams_without_audio_are_named(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mkv"), "w", format="matroska") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    with pytest.raises(AudioError, match="holds no audio stream"):
        read(tmp_path / "a.mkv")
