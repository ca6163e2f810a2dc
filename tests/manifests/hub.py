"""Parquet files as Hugging Face's `datasets` writes them."""

import io

import soundfile

from tests.making import make_waveform


def encode(seed, suffix="wav", seconds=1.5):
    file = io.BytesIO()
    soundfile.write(file, make_waveform(seconds, seed=seed), 16_000, format=suffix)
    return file.getvalue()


def write_hub(path, numbers, *, rows_per_group=4, **columns):
    """Write recordings with `datasets` itself: one for each number, with a text and an identifier."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        "audio": [{"bytes": encode(i), "path": f"clip{i}.wav"} for i in numbers],
        "sentence": [f"Sentence number {i}" for i in numbers],
        "id": list(numbers),
        **columns,
    }
    audio = datasets.Audio(sampling_rate=16_000, decode=False)
    table = datasets.Dataset.from_dict(rows).cast_column("audio", audio)
    table.to_parquet(path, batch_size=rows_per_group)
    return path
