"""Measure how fast `inspect --browse` answers on a million utterances: real requests to the server of the command.

python -m benchmarks.bench_browse [UTTERANCES]
"""

import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode
from urllib.request import urlopen

from benchmarks.bench_filter import SHARD_ROWS, write_set
from benchmarks.machine import write_result

REQUESTS = {
    "first page": {},
    "search a text": {"text": "abc"},
    "the next page of it": {"text": "abc", "page": "2"},
    "search a text in capitals": {"text": "DEF"},
    "search a key": {"text": "000123456-rec"},
    "search what is nowhere": {"text": "nowhere at all"},
    "search with an accent": {"text": "\u00e9"},
    "sort by a number": {"sort": "snr_db", "order": "descending"},
    "sort by the text": {"sort": "text"},
    "search and sort": {"text": "ab", "sort": "seconds"},
    "last page": {"page": "999999999"},
}
"""What is asked for, once each, on a server that has not been asked for it before."""


def measure(folder: Path) -> dict[str, object]:
    """Start the command and send every request.

    Returns:
        Seconds until the address is printed, seconds of each answer, and the largest memory of the process in MB.
    """
    begin = time.perf_counter()
    command = [sys.executable, "-m", "whisper_shard", "inspect", str(folder), "--browse"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+/", process.stdout.readline())
        assert address is not None
        found: dict[str, object] = {"start_seconds": time.perf_counter() - begin}
        answers = {}
        for name, query in REQUESTS.items():
            begin = time.perf_counter()
            with urlopen(f"{address[0]}?{urlencode(query)}") as answer:
                assert b" found; page " in answer.read()
            answers[name] = time.perf_counter() - begin
        process.send_signal(signal.SIGINT)
        process.communicate()
    return found | {
        "answer_seconds": answers,
        "max_rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def main() -> None:
    """Write an index without shards, browse it, and write down the times."""
    num_shards = int((sys.argv[1:] or ["1000000"])[0]) // SHARD_ROWS
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        write_set(folder, num_shards)
        found = {
            "utterances": num_shards * SHARD_ROWS,
            "index_mb": (folder / "index.parquet").stat().st_size / 1e6,
            **measure(folder),
        }
    write_result("browse", f"python -m benchmarks.bench_browse {num_shards * SHARD_ROWS}", found, "pyarrow", "numpy")


if __name__ == "__main__":
    main()
