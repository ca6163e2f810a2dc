import io

import numpy as np
import pytest
import soundfile

from tests.audio.recordings import BUILT_IN, write_av
from tests.making import make_waveform
from whisper_shard.audio.decoders import decode_recording
from whisper_shard.audio.recording import AudioBlock, Recording
from whisper_shard.audio.segments import Part, SegmentReader
from whisper_shard.audio.sndfile import SoundfileDecoder
from whisper_shard.errors import AudioError

RATE = 16_000


class Small(SoundfileDecoder):
    """libsndfile in small blocks, which notes what it decodes."""

    def __init__(self, num_samples=1000):
        self.num_samples, self.blocks = num_samples, []

    def read_blocks(self, file, *, start_seconds):
        for block in super().read_blocks(file, start_seconds=start_seconds):
            for start in range(0, block.channels.shape[1], self.num_samples):
                part = block.channels[:, start : start + self.num_samples]
                self.blocks.append((block.position + start, part.shape[1]))
                yield AudioBlock(channels=part, sample_rate=block.sample_rate, position=block.position + start)


class Whole:
    """A decoder of the user's own that knows no blocks."""

    def claims(self, _head, _suffix, /):
        return True

    def decode(self, file, *, max_seconds):
        return Recording(waveform=np.frombuffer(file.read(), "<f4"), sample_rate=RATE)


def encode(waveform, suffix, **kind):
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE, format=suffix, **kind)
    return file.getvalue()


def opener(content):
    return lambda: io.BytesIO(content)


def read(reader, content, *span, channel=None, name="a", max_seconds=600.0, suffix="wav"):
    start, end = (*span, None)[:2] if span else (0.0, None)
    part = Part(start_seconds=start, end_seconds=end, channel=channel)
    return reader.read(name, suffix, opener(content), part, max_seconds=max_seconds).waveform


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_parts_are_those_of_the_whole_recording(suffix):
    content = encode(make_waveform(20.0), suffix)
    whole = decode_recording(io.BytesIO(content), suffix=suffix, decoders=BUILT_IN, max_seconds=60).waveform
    reader = SegmentReader((Small(),))
    spans = [(0.5, 2.0), (2.0, 3.0), (2.5, 2.6), (2.5, 9.0), (15.0, 19.5)]
    for start, end in spans:
        np.testing.assert_array_equal(
            read(reader, content, start, end, suffix=suffix), whole[round(start * RATE) : round(end * RATE)]
        )
    np.testing.assert_array_equal(read(reader, content, 16.0, suffix=suffix), whole[16 * RATE :])
    assert reader.num_passes == 1


def test_ffmpeg_formats_are_cut_too(tmp_path):
    write_av(tmp_path / "a.m4a", "ipod", "aac", make_waveform(5.0), RATE)
    content = (tmp_path / "a.m4a").read_bytes()
    whole = decode_recording(io.BytesIO(content), suffix="m4a", decoders=BUILT_IN, max_seconds=60).waveform
    reader = SegmentReader(BUILT_IN)
    for start, end in [(0.1, 1.0), (1.0, 2.2), (3.0, 4.0)]:
        np.testing.assert_array_equal(
            read(reader, content, start, end, suffix="m4a"), whole[round(start * RATE) : round(end * RATE)]
        )
    assert reader.num_passes == 1


def test_a_recording_is_decoded_once_and_forgotten_as_it_goes():
    content = encode(make_waveform(60.0), "wav")
    decoder = Small()
    reader = SegmentReader((decoder,))
    held = []
    for start in range(55):
        read(reader, content, float(start), start + 1.5)
        held.append(sum(block.shape[1] for block in reader._stream.kept))
    assert reader.num_passes == 1
    positions = [position for position, _ in decoder.blocks]
    assert positions == sorted(set(positions))
    assert max(held) < 3 * RATE


def test_wav_and_flac_are_entered_where_the_first_part_begins():
    for suffix in ("wav", "flac"):
        decoder = Small()
        content = encode(make_waveform(60.0), suffix)
        part = read(SegmentReader((decoder,)), content, 50.0, 51.0)
        assert decoder.blocks[0][0] == 50 * RATE
        np.testing.assert_allclose(part, make_waveform(60.0)[50 * RATE : 51 * RATE], atol=1e-4)


def test_a_part_that_begins_earlier_costs_another_pass():
    content = encode(make_waveform(5.0), "wav")
    reader = SegmentReader(BUILT_IN)
    later, earlier = read(reader, content, 2.0, 3.0), read(reader, content, 1.0, 3.0)
    np.testing.assert_array_equal(earlier[RATE:], later)
    assert reader.num_passes == 2
    read(reader, encode(make_waveform(5.0), "wav"), 4.0, 4.5, name="b")
    assert reader.num_passes == 3


def test_parts_that_overlap_may_be_written_into():
    content = encode(make_waveform(3.0), "wav")
    reader = SegmentReader(BUILT_IN)
    first = read(reader, content, 1.0, 2.0)
    again = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(read(reader, content, 1.0, 2.0), again)


def test_channels_are_chosen_part_by_part():
    left, right = make_waveform(3.0, seed=1), make_waveform(3.0, seed=2)
    content = encode(np.stack([left, right], 1), "wav", subtype="FLOAT")
    reader = SegmentReader(BUILT_IN)
    span = slice(RATE, 2 * RATE)
    np.testing.assert_array_equal(read(reader, content, 1.0, 2.0, channel=0), left[span])
    np.testing.assert_array_equal(read(reader, content, 1.0, 2.0, channel=1), right[span])
    np.testing.assert_array_equal(read(reader, content, 1.0, 2.0), (left[span] + right[span]) * np.float32(0.5))
    assert reader.num_passes == 1
    with pytest.raises(AudioError, match=r"has 2 channels, so there is no channel 2 \(counted from 0\)") as caught:
        read(reader, content, 1.0, 2.0, channel=2)
    assert caught.value.reason == "missing_channel"
    with pytest.raises(AudioError, match=r"has 1 channel, so there is no channel 1"):
        read(reader, encode(left, "wav"), channel=1, name="mono")


def test_whole_recordings_have_channels_and_a_limit():
    stereo = np.stack([make_waveform(3.0, seed=1), make_waveform(3.0, seed=2)], 1)
    content = encode(stereo, "wav", subtype="FLOAT")
    np.testing.assert_array_equal(read(SegmentReader(BUILT_IN), content, channel=1), stereo[:, 1])
    with pytest.raises(AudioError, match=r"at least 3.0 s before trimming, limit 2 s"):
        read(SegmentReader(BUILT_IN), content, channel=1, max_seconds=2.0)
    with pytest.raises(AudioError, match=r"at least 2.5 s before trimming, limit 2 s") as caught:
        read(SegmentReader(BUILT_IN), content, 0.5, 3.0, max_seconds=2.0)
    assert caught.value.reason == "recording_too_long"


def test_a_part_may_end_a_little_behind_the_recording():
    content = encode(make_waveform(3.0), "wav")
    reader = SegmentReader(BUILT_IN)
    assert len(read(reader, content, 2.0, 3.2)) == RATE
    for span in [(2.5, 3.5), (3.0, 3.1), (7.0, 8.0), (7.0, None)]:
        with pytest.raises(AudioError, match=rf"from {span[0]:g} s to .*, but the recording has 3.000 s") as caught:
            read(reader, content, *span)
        assert caught.value.reason == "segment_outside"


def test_what_comes_before_the_damage_is_kept():
    content = encode(make_waveform(20.0), "wav")
    cut = content[: len(content) // 2]
    reader = SegmentReader((Small(),))
    np.testing.assert_array_equal(read(reader, cut, 1.0, 2.0), read(SegmentReader(BUILT_IN), content, 1.0, 2.0))
    for _ in range(2):
        with pytest.raises(AudioError, match="cut off: the header promises") as caught:
            read(reader, cut, 9.5, 11.0)
        assert caught.value.reason == "truncated"
    assert len(read(reader, cut, 9.6, 9.9)) == round(0.3 * RATE)
    assert reader.num_passes == 1


def test_what_cannot_be_opened_is_tried_once():
    reader, num_opened = SegmentReader(BUILT_IN), 0

    def open_nonsense():
        nonlocal num_opened
        num_opened += 1
        return io.BytesIO(b"nothing of the kind")

    for start in (1.0, 2.0):
        with pytest.raises(AudioError, match="Format not recognised"):
            reader.read("a", "wav", open_nonsense, Part(start_seconds=start, end_seconds=9.0), max_seconds=60)
    assert num_opened == 1


def test_faults_of_the_machine_are_not_kept():
    content = encode(make_waveform(3.0), "wav")
    reader = SegmentReader(BUILT_IN)

    def fail():
        raise OSError("lost mount")

    with pytest.raises(OSError, match="lost mount"):
        reader.read("a", "wav", fail, Part(start_seconds=1.0, end_seconds=2.0), max_seconds=60)
    assert len(read(reader, content, 1.0, 2.0)) == RATE


def test_decoders_without_blocks_decode_everything_once():
    waveform = make_waveform(3.0)
    reader = SegmentReader((Whole(),))
    np.testing.assert_array_equal(read(reader, waveform.tobytes(), 0.5, 1.0), waveform[RATE // 2 : RATE])
    np.testing.assert_array_equal(read(reader, waveform.tobytes(), 2.0), waveform[2 * RATE :])
    assert reader.num_passes == 1
    with pytest.raises(AudioError, match="decodes to 0 samples") as caught:
        read(reader, b"", name="empty")
    assert caught.value.reason == "empty_audio"
