"""Corpora and fingerprints for the tests of this folder."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import soundfile

from tests.making import make_waveform
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.events import Done
from whisper_shard.prepare.run import prepare_corpus

ROOT = Path(__file__).parents[2]
QUICK = {"trim_db": 0.0, "jobs": 2}


def write_csv(path, rows, header=("audios", "transcription")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def make_corpus(folder, count, *, seconds=1.3, extra=()):
    """Write ``count`` wav files, files given as (name, bytes), and corpus.csv; return the path of the CSV."""
    (folder / "audios").mkdir(parents=True)
    rows = []
    for i in range(count):
        soundfile.write(folder / f"audios/{i}.wav", make_waveform(seconds + 0.01 * (i % 7), seed=i), 16_000)
        rows.append((f"audios/{i}.wav", f"utterance number {i}"))
    for i, (name, content) in enumerate(extra):
        (folder / "audios" / name).write_bytes(content)
        rows.insert(3 + 5 * i, (f"audios/{name}", f"text of {name}"))
    return write_csv(folder / "corpus.csv", rows)


def prepare(corpus, out, **settings):
    """Prepare in this process; return the events."""
    return list(prepare_corpus(corpus, out, PrepareConfig(**{**QUICK, **settings})))


def totals_of(events):
    (done,) = [event for event in events if isinstance(event, Done)]
    return done.splits


def fingerprint(folder):
    """Return the sha256 of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start_driver(corpus, out, *, step=None, **settings):
    arguments = [str(corpus), str(out), json.dumps({**QUICK, **settings}), *([step] if step else [])]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.prepare.driver", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def descendants(pid):
    """Return the processes below a process, as far as /proc shows them."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            for child in path.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def is_alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
