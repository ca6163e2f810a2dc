import io

import numpy as np
import pytest
import soundfile

from tests.foreign import encode
from tests.making import make_waveform
from whisper_shard.audio.foreign import decode_foreign, foreign_decoders
from whisper_shard.audio.resample import resample
from whisper_shard.errors import DatasetError

DECODERS = foreign_decoders(16_000)


def decode(data, suffix="wav", *, start=0, num_samples=8_000):
    return decode_foreign(data, suffix=suffix, decoders=DECODERS, start=start, num_samples=num_samples)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
def test_members_are_decoded_as_soundfile_decodes_them(suffix):
    data = encode(0.5, suffix, rate=48_000)
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        expected = resample(sound.read(dtype="float32"), sound.samplerate)
    assert np.array_equal(decode(data, suffix, num_samples=len(expected)), expected)


def test_npy_and_segments():
    waveform = make_waveform(0.5)
    assert np.array_equal(decode(encode(0.5, "npy"), "npy"), waveform)
    assert np.array_equal(decode(encode(0.5, "npy"), "npy", start=100, num_samples=50), waveform[100:150])


@pytest.mark.parametrize(
    ("data", "start", "message"),
    [
        (b"not audio", 0, r"wav member cannot be decoded: "),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.", 0, r"wav member cannot be decoded: "),
        (encode(0.5), 1, r"wav member decodes to 8000 samples at 16 kHz, the index promises 8001; if the libraries"),
    ],
)
def test_what_the_index_did_not_promise_is_an_error(data, start, message):
    with pytest.raises(DatasetError, match=message):
        decode(data, start=start)
