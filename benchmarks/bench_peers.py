"""Other loaders on the same audio: one process, shuffled, float32 batches of 32 padded in the same way.

    make bench-peers      (benchmarks/peers.sh makes an environment for it, since requirements conflict)

Every loader gets the same int16 samples in its own format, as its documentation recommends for arrays, and shuffles by
default, with a buffer of 1,000 where it has one. Only whisper-shard checks the data. Whole epochs are timed, after one
that is not: a shuffle buffer is filled at the beginning of an epoch and emptied at its end, so a part of an epoch would
contain too much or too little work. Writes benchmarks/results/<date>-peers.json and prints a table.
"""

import argparse
import datetime
import importlib.machinery
import json
import shutil
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_stream import BATCH, pad_samples, plain_webdataset
from benchmarks.corpus import make_corpus
from benchmarks.machine import describe_machine
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.reader import RecordReader, decode_audio, decode_json
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.stream.loader import open_loader
from whisper_shard.utterance import SAMPLE_RATE

EPOCHS = 2
HUGGINGFACE_COLUMNS = {"key": "string", "audio": "binary", "text": "string"}
Item = dict[str, Any]


def read_items(dataset: Dataset) -> Iterator[Item]:
    """Yield key, int16 samples and text of every utterance."""
    reader = RecordReader(dataset, LocalSource(dataset))
    for row in range(dataset.num_utterances):
        raw = reader.read(row)
        yield {"key": raw.key, "audio": np.array(decode_audio(raw)), "text": decode_json(raw)["text"]}


def count_batches(items: Iterable[Item]) -> Iterator[int]:
    """Collate as for plain webdataset; yield the number of utterances of each batch."""
    batch: list[Any] = []
    for item in items:
        batch.append((np.asarray(item["audio"]), {"text": item["text"]}))
        if len(batch) == BATCH:
            pad_samples(batch)
            yield len(batch)
            batch = []


def write_lhotse(dataset: Dataset, folder: Path) -> None:
    import soundfile
    from lhotse import Recording
    from lhotse.shar import SharWriter
    from lhotse.supervision import SupervisionSegment

    (folder / "wav").mkdir()
    (folder / "shar").mkdir()
    with SharWriter(str(folder / "shar"), fields={"recording": "wav"}, shard_size=250) as writer:
        for item in read_items(dataset):
            path = folder / "wav" / f"{item['key']}.wav"
            soundfile.write(path, item["audio"], SAMPLE_RATE, subtype="PCM_16")
            recording = Recording.from_file(path, recording_id=item["key"])
            cut = recording.to_cut()
            cut.supervisions = [
                SupervisionSegment(item["key"], item["key"], 0.0, recording.duration, text=item["text"])
            ]
            writer.write(cut)
    shutil.rmtree(folder / "wav")


class LhotseItems:
    def __init__(self, folder: Path) -> None:
        from lhotse import CutSet

        self._cuts = CutSet.from_shar(in_dir=str(folder / "shar"), shuffle_shards=True).shuffle(buffer_size=1000)

    def __iter__(self) -> Iterator[Item]:
        for cut in self._cuts:
            # Lhotse decodes to float32 in [-1, 1]; the common collation expects the int16 scale.
            yield {"audio": cut.load_audio()[0] * 32768, "text": cut.supervisions[0].text}


def write_huggingface(dataset: Dataset, folder: Path) -> None:
    import datasets

    # Bytes, not List(int16): a shuffled stream would turn each sample of a list into a Python number, ten times slower.
    features = datasets.Features({name: datasets.Value(kind) for name, kind in HUGGINGFACE_COLUMNS.items()})
    stored = datasets.Dataset.from_generator(
        generate_bytes, features=features, gen_kwargs={"dataset": dataset}, cache_dir=str(folder / "cache")
    )
    for shard in range(10):
        stored.shard(10, shard, contiguous=True).to_parquet(str(folder / f"{shard:03d}.parquet"))
    shutil.rmtree(folder / "cache")


def generate_bytes(dataset: Dataset) -> Iterator[Item]:
    for item in read_items(dataset):
        yield item | {"audio": item["audio"].tobytes()}


class HuggingFaceItems:
    def __init__(self, folder: Path) -> None:
        import datasets

        # At the end of each epoch it sleeps for 5 s (apache/arrow#45214): most of the time of a short epoch.
        datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
        files = sorted(str(path) for path in folder.glob("*.parquet"))
        stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        self._stream = stream.shuffle(seed=0, buffer_size=1000)

    def __iter__(self) -> Iterator[Item]:
        for item in self._stream:
            yield item | {"audio": np.frombuffer(item["audio"], np.int16)}


def write_mosaicml(dataset: Dataset, folder: Path) -> None:
    stand_in_for_torchvision()
    from streaming import MDSWriter

    columns = {"key": "str", "audio": "ndarray:int16", "text": "str"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for item in read_items(dataset):
            writer.write(item)


def open_mosaicml(folder: Path) -> Iterable[Item]:
    stand_in_for_torchvision()
    from streaming import StreamingDataset

    stream: Iterable[Item] = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    return stream


def stand_in_for_torchvision() -> None:
    """Make MosaicML Streaming importable: it needs three names of torchvision, which needs a CUDA build of torch."""
    package = types.ModuleType("torchvision")
    package.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    package.datasets = types.ModuleType("torchvision.datasets")  # type: ignore[attr-defined]
    package.datasets.VisionDataset = package.datasets.CIFAR10 = object  # type: ignore[attr-defined]
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.to_tensor = torch.as_tensor  # type: ignore[attr-defined]
    modules = {"torchvision": package, "torchvision.datasets": package.datasets, functional.__name__: functional}
    sys.modules.update({"torchvision.transforms": types.ModuleType("torchvision.transforms"), **modules})


def write_litdata(dataset: Dataset, folder: Path) -> None:
    import litdata

    wave_folder = folder / "items"
    wave_folder.mkdir(parents=True)
    paths = []
    for item in read_items(dataset):
        np.save(wave_folder / f"{item['key']}.npy", item["audio"])
        paths.append((str(wave_folder / f"{item['key']}.npy"), item["key"], item["text"]))
    litdata.optimize(read_saved, paths, output_dir=str(folder / "chunks"), chunk_bytes="64MB", num_workers=1)
    shutil.rmtree(wave_folder)


def read_saved(place: tuple[str, str, str]) -> Item:
    return {"audio": np.load(place[0]), "key": place[1], "text": place[2]}


def open_litdata(folder: Path) -> Iterable[Item]:
    import litdata

    stream: Iterable[Item] = litdata.StreamingDataset(str(folder / "chunks"), shuffle=True)
    return stream


class PlainBatches:
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[int]:
        return plain_webdataset(self._dataset, 0, epochs=1)


class OurBatches:
    def __init__(self, dataset: Dataset) -> None:
        self._loader = open_loader(dataset, StreamConfig(batch_size=BATCH, workers=0, augment=()), epochs=1)

    def __iter__(self) -> Iterator[int]:
        return (len(batch.ids) for batch in self._loader)


class CollatedBatches:
    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[int]:
        return count_batches(self._items)


PEERS: dict[str, tuple[str, Callable[[Dataset, Path], None], Callable[[Path], Iterable[Item]]]] = {
    "Lhotse Shar": ("lhotse", write_lhotse, LhotseItems),
    "Hugging Face datasets, streaming": ("datasets", write_huggingface, HuggingFaceItems),
    "MosaicML Streaming": ("mosaicml-streaming", write_mosaicml, open_mosaicml),
    "LitData": ("litdata", write_litdata, open_litdata),
}


def measure_rate(batches: Iterable[int]) -> float:
    """Return utterances per second over whole epochs, after one that opens files and fills memory."""
    sum(batches)
    started = time.perf_counter()
    return sum(sum(batches) for _ in range(EPOCHS)) / (time.perf_counter() - started)


def run(folder: Path, num_utterances: int, rounds: int) -> dict[str, Any]:
    dataset = make_corpus(folder / "ours", num_utterances)
    batches: dict[str, Iterable[int]] = {"whisper-shard": OurBatches(dataset), "webdataset": PlainBatches(dataset)}
    faults: dict[str, str] = {}
    for name, (package, write, open_items) in PEERS.items():
        place = folder / package
        try:
            place.mkdir()
            write(dataset, place)
            batches[name] = CollatedBatches(open_items(place))
        except Exception as error:
            faults[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        print(f"{name}: {faults.get(name, 'written')}", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(rounds):
        for name, source in batches.items():
            try:
                rates[name].append(measure_rate(source))
                print(f"{name}: {rates[name][-1]:,.0f} utterances/s", flush=True)
            except Exception as error:
                faults[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
    reference = rates["whisper-shard"]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine("numpy", "torch", "webdataset", "audiomentations"),
        "corpus": {"utterances": num_utterances, "mean_seconds": dataset.num_samples / SAMPLE_RATE / num_utterances},
        "versions": {name: version(package) for name, (package, *_) in PEERS.items()},
        "rounds": rounds,
        "epochs_a_round": EPOCHS,
        "utterances_per_second": {name: {"median": statistics.median(r), "all": r} for name, r in rates.items() if r},
        "whisper_shard_is_faster_by": {
            name: statistics.median(a / b for a, b in zip(reference, r, strict=True))
            for name, r in rates.items()
            if len(r) == rounds
        },
        "faults": faults,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder for the corpora; default: a temporary folder")
    parser.add_argument("--utterances", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report = run(Path(folder), arguments.utterances, arguments.rounds)
    for name, ratio in report["whisper_shard_is_faster_by"].items():
        print(f"{name:35} {report['utterances_per_second'][name]['median']:10,.0f} utterances/s   ours {ratio:6.1f} x")
    for name, fault in report["faults"].items():
        print(f"{name:35} {fault}")
    path = Path(__file__).parent / "results" / f"{report['date']}-peers.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
