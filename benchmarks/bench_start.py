"""Time and memory of the checks that training makes of ten million utterances before its first step.

    python -m benchmarks.bench_start --tokenizer MODEL [--folder DIR] [--utterances 10000000] [--rounds 3]

The indexes are written by the package's own writer; shards are not needed for the checks. There are two kinds of texts:
Latin letters of one byte, where no text has more bytes than the decoder has positions, and Cyrillic letters of two
bytes, where one text in twenty has more bytes, although its tokens fit. Both consist of 50,000 words drawn by Zipf's
law. The evaluation set has a hundredth as many utterances. Each measurement runs in a process of its own, the disk
cache is warm, and times start after Python and the libraries are loaded. Memory is the peak of private memory, without
the mapped index. Writes benchmarks/results/<date>-start.json.
"""

import argparse
import datetime
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import WhisperTokenizer

from benchmarks.bench_index import PER_SHARD, write_index_only
from benchmarks.machine import describe_machine
from whisper_shard.config.train import TrainConfig
from whisper_shard.model.labels import Labeler
from whisper_shard.train.data import check_labels, open_corpora

FIRST_LETTERS = {"latin": "a", "cyrillic": "\u0430"}
NUM_WORDS = 50_000
DRAWN_WORDS = 3_000_000


def draw_words(first_letter: str) -> str:
    """Return words of 26 letters starting at ``first_letter``, drawn by Zipf's law, with spaces between them."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, NUM_WORDS)
    vocabulary = ["".join(chr(ord(first_letter) + int(letter)) for letter in rng.integers(0, 26, n)) for n in sizes]
    shares = 1.0 / np.arange(1, NUM_WORDS + 1)
    drawn = rng.choice(NUM_WORDS, DRAWN_WORDS, p=shares / shares.sum())
    return " ".join(vocabulary[i] for i in drawn)


def read_memory(name: str) -> float:
    """Return a value of this process's status in MB."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024 / 1e6


def watch_memory(peaks: list[float], is_over: threading.Event) -> None:
    """Record this process's private memory, without mapped files, a hundred times per second."""
    while not is_over.wait(0.01):
        peaks.append(read_memory("RssAnon"))


def measure(folder: Path, tokenizer: str, out: Any) -> None:
    """Run in a process of its own: the checks in the order of training, and the order of the first epoch."""
    config = TrainConfig(model=tokenizer)
    labeler = Labeler(WhisperTokenizer.from_pretrained(tokenizer))
    result: dict[str, float] = {}

    def take(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter(), time.process_time()
        value = work()
        result[f"{name}_seconds"] = time.perf_counter() - began[0]
        result[f"{name}_cpu_seconds"] = time.process_time() - began[1]
        return value

    before, peaks, is_over = read_memory("RssAnon"), [0.0], threading.Event()
    watch = threading.Thread(target=watch_memory, args=(peaks, is_over))
    watch.start()
    corpora = take("open_and_compare", lambda: open_corpora(folder, config))
    take("texts", lambda: [check_labels(data, labeler) for data in (corpora.train, corpora.eval)])
    is_over.set()
    watch.join()
    result["own_peak_mb"] = max(peaks) - before
    out.put(result)


def run_apart(folder: Path, tokenizer: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=measure, args=(folder, tokenizer, out))
    process.start()
    process.join()
    result: dict[str, float] = out.get(timeout=10)
    return result


def run(folder: Path, tokenizer: str, num_utterances: int, rounds: int) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    for script, first_letter in FIRST_LETTERS.items():
        words = draw_words(first_letter)
        data = folder / script
        write_index_only(data / "train", num_utterances, words)
        write_index_only(data / "eval", max(num_utterances // 100, PER_SHARD), words, name="held")
        results = []
        for _ in range(rounds):
            results.append(run_apart(data, tokenizer))
            print(script, {name: round(value, 2) for name, value in results[-1].items()}, flush=True)
        measured[script] = {name: statistics.median(one[name] for one in results) for name in results[0]}
        measured[script]["all"] = results
    return {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine("numpy", "pyarrow", "transformers", "tokenizers"),
        "utterances": num_utterances,
        "rounds": rounds,
        "tokenizer": Path(tokenizer).name,
        "measured": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder of a Whisper model")
    parser.add_argument("--folder", type=Path, help="folder for the indexes of 2.5 GB; default: a temporary folder")
    parser.add_argument("--utterances", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report = run(Path(folder), arguments.tokenizer, arguments.utterances, arguments.rounds)
    path = Path(__file__).parent / "results" / f"{report['date']}-start.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
