import errno
import io

import numpy as np
import pytest
import soundfile

from tests.audio.recordings import BUILT_IN, read, write_av
from tests.making import make_waveform
from whisper_shard.audio.decoders import decode_recording
from whisper_shard.errors import AudioError


def test_content_counts_not_the_suffix(tmp_path):
    waveform = make_waveform(0.5)
    soundfile.write(tmp_path / "a.flac", waveform, 16_000)
    (tmp_path / "a.mp3").write_bytes((tmp_path / "a.flac").read_bytes())
    np.testing.assert_array_equal(read(tmp_path / "a.mp3").waveform, read(tmp_path / "a.flac").waveform)
    write_av(tmp_path / "b.m4a", "ipod", "aac", waveform, 16_000)
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.m4a").read_bytes())
    np.testing.assert_array_equal(read(tmp_path / "b.wav").waveform, read(tmp_path / "b.m4a").waveform)


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
