import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.making import make_waveform
from whisper_shard.audio.recording import Recording
from whisper_shard.audio.resample import resample
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.schema import FOREIGN_SCHEMA, INDEX_SCHEMA, QUALITY_SCHEMA
from whisper_shard.prepare.pipeline import build_pipeline, prepare_row
from whisper_shard.prepare.quality import measure_quality
from whisper_shard.prepare.run import prepare_corpus
from whisper_shard.utterance import ManifestRow

RATE = 16_000


def bursts(*, seconds=6.0, rate=RATE, share=0.5, seed=0):
    """Noise of the given share of each second, with the level of speech, below 6 kHz or half the rate."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return (0.1 * rng.standard_normal(len(time)) * (time % 1 < share)).astype(np.float32)


def measure(waveform, *, rate=RATE, num_chars=60, correlation=None):
    recording = Recording(waveform=waveform, sample_rate=rate, channel_correlation=correlation)
    return measure_quality(recording, resample(waveform, rate), num_chars=num_chars)


def test_level_and_rate():
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    quality = measure(tone, num_chars=30)
    assert quality.peak == pytest.approx(0.5, abs=1e-4)
    assert quality.rms_db == pytest.approx(-9.03, abs=0.01)  # 20 log10(0.5 / sqrt(2))
    assert quality.chars_per_second == 15
    assert quality.channel_correlation is None
    assert quality.bandwidth_hz == pytest.approx(440, abs=4 * RATE / 256)  # the main lobe of the window


@pytest.mark.parametrize("snr", [5, 10, 20, 30, 40])
def test_signal_to_noise_ratio_is_that_of_the_mixture(snr):
    speech = bursts()
    noise = np.random.default_rng(1).standard_normal(len(speech)).astype(np.float32)
    quality = measure(speech + noise * np.float32(0.1 * 10 ** (-snr / 20)))
    assert quality.snr_db == pytest.approx(snr, abs=2.5)
    assert quality.speech_fraction == pytest.approx(0.68, abs=0.04)  # bursts of half a second, and 180 ms after each


def test_steady_noise_holds_no_speech():
    quality = measure(0.1 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32))
    assert quality.speech_fraction == 0
    assert quality.snr_db < 0


def test_digital_silence_between_words_is_not_infinitely_quiet():
    assert 60 < measure(bursts()).snr_db <= 100


@pytest.mark.parametrize("gain", [1.0, 0.2])
def test_clipping_is_found_at_any_level(gain):
    wave = 2.0 * make_waveform(2.0)
    clipped = np.clip(wave, -0.8, 0.8)
    assert measure(wave).clipped_fraction < 0.0002
    expected = np.mean(np.abs(wave) >= 0.8)
    assert measure(np.float32(gain) * clipped).clipped_fraction == pytest.approx(
        expected, rel=0.3
    )  # runs of one or two are not counted


def test_telephone_speech_sold_at_a_high_rate_keeps_its_bandwidth():
    wide = bursts(rate=44_100)
    narrow = resample(resample(wide, 44_100, 8_000), 8_000, 44_100)
    assert measure(wide, rate=44_100).bandwidth_hz > 20_000
    assert 3_500 < measure(narrow, rate=44_100).bandwidth_hz < 4_100


@pytest.mark.parametrize("num_samples", [1, 2, 319, 321, 700])
def test_the_shortest_recordings_are_measured(num_samples):
    quality = measure(np.full(num_samples, 0.1, np.float32))
    assert all(np.isfinite(value) for value in (quality.snr_db, quality.rms_db, quality.bandwidth_hz))


STEREO = {
    "equal": (lambda x: (x, x), 1.0),
    "inverted": (lambda x: (x, -0.5 * x), -1.0),
    "other": (lambda x: (x, bursts(seed=7)[: len(x)]), 0.0),
    "silent": (lambda x: (x, 0 * x), 0.0),
    "mono": (lambda x: (x,), None),
    "worst of three": (lambda x: (x, x, bursts(seed=7)[: len(x)]), 0.0),
}


@pytest.mark.parametrize("name", STEREO)
@pytest.mark.parametrize("suffix", ["wav", "mka"])
@pytest.mark.parametrize("channel", ["mix", "0"])
def test_correlation_of_channels(tmp_path, name, suffix, channel):
    make, expected = STEREO[name]
    path = tmp_path / f"a.{suffix}"
    channels = np.stack(make(bursts()), axis=1)
    if suffix == "wav":
        soundfile.write(path, channels, RATE, subtype="FLOAT")
    else:
        write_matroska(path, channels)
    row = ManifestRow(row=0, source=path.name, path=str(path), transcript="hello world")
    utterance = prepare_row(row, build_pipeline(PrepareConfig(channel=channel, trim_db=0)))
    found = utterance.quality.channel_correlation
    assert found is None if expected is None else found == pytest.approx(expected, abs=0.02)


def write_matroska(path, channels):
    av = pytest.importorskip("av")
    layout = {1: "mono", 2: "stereo", 3: "2.1"}[channels.shape[1]]
    with av.open(path, "w", format="matroska") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = ["audios,transcription"]
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", (1 - 0.1 * number) * make_waveform(1.5 + number / 10), RATE)
        lines.append(f"{number}.wav,utterance number {number}")
    (folder / "corpus.csv").write_text("\n".join(lines))
    return folder / "corpus.csv"


def prepare(corpus, out, **settings):
    list(prepare_corpus(corpus, out, PrepareConfig(eval_fraction=0, jobs=1, **settings)))
    return pq.read_table(out / "train/index.parquet")


def test_the_index_has_the_columns_in_the_order_of_the_shard(corpus, tmp_path):
    index = prepare(corpus, tmp_path / "out")
    assert index.schema.names == [*INDEX_SCHEMA.names, *QUALITY_SCHEMA.names]
    assert index["source"].to_pylist() == [f"{number}.wav" for number in range(6)]  # by length
    peaks = [0.9 * (1 - 0.1 * number) for number in range(6)]
    assert index["peak"].to_pylist() == pytest.approx(peaks, abs=1e-3)  # not the normalized one
    assert index["channel_correlation"].null_count == 6
    assert index["snr_db"].null_count == 0


def test_without_quality_the_index_is_as_before(corpus, tmp_path):
    assert prepare(corpus, tmp_path / "out", quality=False).schema.names == INDEX_SCHEMA.names


def test_schemas():
    assert not set(QUALITY_SCHEMA.names) & set(FOREIGN_SCHEMA.names)
    assert [field.name for field in QUALITY_SCHEMA if field.nullable] == ["channel_correlation"]
