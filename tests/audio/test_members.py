import io

import numpy as np
import pytest
import soundfile

from tests.making import make_waveform
from whisper_shard.audio.members import ENCODERS, decode_flac, decode_member, decode_npy, encode_flac, encode_npy
from whisper_shard.audio.samples import to_int16
from whisper_shard.errors import DatasetError


def test_npy_is_that_of_numpy():
    samples = to_int16(make_waveform(0.1))
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_npy(samples))), samples)
    np.testing.assert_array_equal(decode_npy(encode_npy(samples), num_samples=len(samples)), samples)
    with pytest.raises(DatasetError, match="npy member has 328 bytes, the index promises 228"):
        decode_npy(encode_npy(samples[:100]), num_samples=50)
    with pytest.raises(DatasetError, match="npy member has a header other than"):
        decode_npy(encode_npy(samples[:50]).replace(b"<i2", b"<u2"), num_samples=50)


@pytest.mark.parametrize("codec", ENCODERS)
def test_storage_codecs_are_lossless(codec):
    samples = to_int16(make_waveform(1.0))
    encoded = ENCODERS[codec](samples)
    np.testing.assert_array_equal(decode_member(encoded, suffix=codec, num_samples=len(samples)), samples)
    assert encoded == ENCODERS[codec](samples)


def test_damaged_members_are_refused():
    samples = to_int16(make_waveform(0.5))
    data = encode_flac(samples)
    with pytest.raises(DatasetError, match=r"flac member holds .*the index promises 9 mono samples"):
        decode_flac(data, num_samples=9)
    with pytest.raises(DatasetError, match="flac member cannot be decoded"):
        decode_flac(b"not flac", num_samples=9)
    stereo = io.BytesIO()
    soundfile.write(stereo, np.zeros((8000, 2)), 16_000, format="FLAC")
    with pytest.raises(DatasetError, match="flac member holds"):
        decode_flac(stereo.getvalue(), num_samples=8000)
    with pytest.raises(DatasetError, match=r"audio member \*\.mp3: this version reads npy, flac"):
        decode_member(data, suffix="mp3", num_samples=9)
