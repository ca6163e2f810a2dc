"""Datasets whose files were changed by somebody who corrects the checksums, and everything that reads them.

python -m tests.dataset.hostile SOUND HOSTILE     reads HOSTILE with 256 MB of memory; prints an error or "read"
"""

import hashlib
import json
import resource
import sys
from pathlib import Path

import numpy as np

from tests.making import make_waveform
from whisper_shard.audio.samples import to_int16
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.reader import RecordReader, decode_audio, decode_json
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.dataset.summary import inspect_dataset, inspect_utterance
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.stream.loader import open_loader

SECONDS = [0.05, 0.02, 0.031]
CONFIG = StreamConfig(batch_size=2, workers=0, augment=(), read_ahead_mb=0)
MORE_BYTES = 256 << 20


def resign(folder, **fields):
    """Replace fields of dataset.json, and correct the sizes and checksums in it."""
    content = {**json.loads((folder / "dataset.json").read_bytes()), **fields}
    for part, name in (("index", "index.parquet"), ("lengths", "lengths.arrow")):
        path = folder / name
        if isinstance(content.get(part), dict) and path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            content[part] = {**content[part], "num_bytes": path.stat().st_size, "sha256": digest}
    write_signed(folder, content)


def write_signed(folder, content):
    content.pop("digest", None)
    digest = hashlib.sha256(as_json(content)).hexdigest()
    (folder / "dataset.json").write_bytes(as_json({**content, "digest": digest}))


def as_json(content):
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return text.encode(errors="surrogatepass")


def read_everything(folder):
    """Read a dataset in every way; each must give the right result or a DatasetError. Return the errors."""
    return [error for use in (_inspect, _read_utterances, _load, _verify) for error in _errors_of(use, folder)]


def _errors_of(use, folder):
    try:
        yield from use(folder)
    except DatasetError as error:
        assert "\n" not in str(error)
        yield str(error)


def _inspect(folder):
    overview = inspect_dataset(folder)
    assert overview.num_utterances >= 0 and overview.hours >= 0
    dataset = open_dataset(folder)
    for name in ("speaker", "language"):
        assert len(dataset.codes(name)) == dataset.num_utterances
    for key in dataset.columns("key")["key"][:2]:
        _check(inspect_utterance(folder, key).samples, key)
    return ()


def _read_utterances(folder):
    dataset = open_dataset(folder)
    reader = RecordReader(dataset, LocalSource(dataset))
    for row in range(min(dataset.num_utterances, 3)):
        raw = reader.read(row)
        _check(decode_audio(raw), raw.key)
        assert isinstance(decode_json(raw)["text"], str)
    return ()


def _load(folder):
    dataset = open_dataset(folder)
    if dataset.num_utterances:
        batch = next(iter(open_loader(dataset, CONFIG)))
        for key, waveform, num_samples in zip(batch.keys, batch.waveforms, batch.num_samples.tolist(), strict=True):
            if key:
                _check(to_int16(waveform.numpy()[:num_samples]), key)
    return ()


def _verify(folder):
    return [fault.detail for fault in verify_dataset(folder) if isinstance(fault, Fault)]


def _check(samples, key):
    """Compare audio with what `make_dataset` stored under that key."""
    number = int(key.removeprefix("utt"))
    np.testing.assert_array_equal(samples, to_int16(make_waveform(SECONDS[number], seed=number)))


def main(sound, *hostile):
    read_everything(Path(sound))  # loads libraries, starts threads
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for folder in hostile:
        print(json.dumps(read_everything(Path(folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
