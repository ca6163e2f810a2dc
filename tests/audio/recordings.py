"""Recordings for the tests of this folder, and a way to read them."""

import numpy as np

from whisper_shard.audio.decoders import DECODERS
from whisper_shard.audio.files import read_recording
from whisper_shard.audio.samples import to_int16

BUILT_IN = tuple(make() for make in DECODERS.values())


def read(path, max_seconds=600.0):
    return read_recording(str(path), decoders=BUILT_IN, max_seconds=max_seconds)


def write_av(path, container, codec, waveform, rate, *, frame_size=0):
    """Write a waveform with FFmpeg; some codecs want frames of one size."""
    import av

    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(to_int16(waveform)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        frames = [frame]
        if frame_size:
            frames = av.AudioResampler(format="fltp", layout="mono", rate=rate, frame_size=frame_size).resample(frame)
        for packet in [*(packet for each in frames for packet in stream.encode(each)), *stream.encode(None)]:
            output.mux(packet)


def make_noise(num_samples, channels=1):
    shape = num_samples if channels == 1 else (num_samples, channels)
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
