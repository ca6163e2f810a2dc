"""Prepare against its floor, against two jobs, against the guide's recipe, and in memory.

    python -m benchmarks.bench_prepare                      speed: a few minutes
    python -m benchmarks.bench_prepare --manifest-rows 10000000 --only rows      memory of the main process

The floor is what soundfile's decoding and soxr's HQ resampling cost for the same files, one after the other in one
process; both sides have one core, take turns, and the best of their turns counts. The speed of prepare is taken between
the plan and the last committed shard, so process starts (given apart) are not in it, and everything else is: reading,
decoding, resampling, trimming, levelling, text, filters, hashing, writing, fsync, receipts. The recordings are
speech-like sounds made on the spot, repeated in the manifest to fill the hours asked for; both sides read them from the
page cache.

The guide's recipe is its steps 2 to 12: a filter and a map of Hugging Face datasets over decoded audio, librosa's trim,
WhisperFeatureExtractor. Audio is decoded with soundfile and resampled with soxr inside filter and map, which is what
`cast_column(Audio(...))` does with its own decoder in both steps; that it also stores the audio again is left out, to
its advantage, and so is the tokenizer where no `--tokenizer` is given.
"""

import argparse
import csv
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from benchmarks.machine import describe_machine
from benchmarks.speech_like import FORMATS, make_recordings
from whisper_shard.config import PrepareConfig
from whisper_shard.prepare.corpus import prepare_corpus
from whisper_shard.prepare.events import Note, PlanMade, Progress, ShardFinished

RESULTS = Path(__file__).parent / "results"
TEXT = "the text of this utterance has about sixty characters in all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="of different recordings, for each format")
    parser.add_argument("--hours", type=float, default=3.0, help="of rows in the manifest, for each format")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--guide-utterances", type=int, default=60)
    parser.add_argument("--manifest-rows", type=int, default=0, help="rows for the memory of the main process; 0: skip")
    parser.add_argument("--only", choices=("all", "rows"), default="all")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument(
        "--tokenizer", default="", help="Whisper folder whose tokenizer the guide's recipe uses; empty: none"
    )
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-prepare-") as folder:
        if args.only == "all":
            results |= measure_speed(Path(folder), args)
        if args.manifest_rows:
            results["rows"] = measure_rows(Path(folder), args.manifest_rows)
    name = f"{datetime.now(UTC):%Y-%m-%d}-prepare{'-rows' if args.only == 'rows' else ''}.json"
    report = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), "arguments": vars(args)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps({**report, "results": results}, indent=1) + "\n")
    print_table(results)
    print(f"wrote benchmarks/results/{name}")


def measure_speed(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {"formats": {}}
    for suffix in args.formats:
        paths = make_recordings(folder / suffix, suffix, args.minutes)
        repeats = max(1, round(args.hours * 60 / args.minutes))
        corpus = write_manifest(folder / f"{suffix}.csv", paths * repeats)
        turns = [(measure_floor(paths * repeats), measure_prepare(corpus, folder, jobs=1)) for _ in range(args.turns)]
        floor = min((floor for floor, _ in turns), key=wall_of)
        ours = min((ours for _, ours in turns), key=wall_of)
        results["formats"][suffix] = {
            "floor": floor,
            "prepare": ours,
            "ratio_wall": floor["wall_seconds"] / ours["wall_seconds"],
            "ratio_cpu": floor["cpu_seconds"] / ours["cpu_seconds"],
            "audio_seconds_per_second": floor["audio_seconds"] / ours["wall_seconds"],
        }
    if "mp3" in args.formats:
        results["jobs"] = measure_jobs(folder, args.turns)
        paths = sorted((folder / "mp3").iterdir())[: args.guide_utterances]
        guide = measure_guide(paths, args.tokenizer)
        ours, audio = results["formats"]["mp3"]["prepare"], results["formats"]["mp3"]["floor"]["audio_seconds"]
        for clock in ("wall", "cpu"):
            per_second = guide[f"{clock}_seconds"] / guide["audio_seconds"]
            guide[f"prepare_is_faster_by_{clock}"] = per_second / (ours[f"{clock}_seconds"] / audio)
        results["guide"] = guide
    return results


def measure_floor(paths: Sequence[Path]) -> dict[str, float]:
    """Decode and resample, nothing else."""
    with one_core():
        seconds, wall, cpu = 0.0, time.perf_counter(), time.process_time()
        for path in paths:
            waveform, rate = soundfile.read(path, dtype="float32")
            soxr.resample(waveform, rate, 16_000, quality="HQ")
            seconds += len(waveform) / rate
        return {
            "wall_seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "audio_seconds": seconds,
        }


def measure_prepare(corpus: Path, folder: Path, *, jobs: int) -> dict[str, float]:
    """Prepare a corpus; on one core, main process included, where there is one job."""
    out = folder / "out"
    with one_core(is_wanted=jobs == 1):
        begun, peak, cpu_begun, cpu = time.perf_counter(), 0.0, 0.0, 0.0
        started = ended = begun
        for event in prepare_corpus(corpus, out, PrepareConfig(jobs=jobs)):
            if isinstance(event, PlanMade):
                started, cpu_begun = time.perf_counter(), worker_cpu(out) + time.process_time()
            elif isinstance(event, ShardFinished):
                ended, cpu = time.perf_counter(), worker_cpu(out) + time.process_time()
            elif isinstance(event, Progress):
                peak = max(peak, worker_peak_mb(out))
    shutil.rmtree(out)
    return {
        "wall_seconds": ended - started,
        "cpu_seconds": cpu - cpu_begun,
        "start_seconds": started - begun,
        "worker_peak_mb": peak,
    }


def measure_jobs(folder: Path, turns: int) -> dict[str, float]:
    runs = {jobs: [measure_prepare(folder / "mp3.csv", folder, jobs=jobs) for _ in range(turns)] for jobs in (1, 2)}
    one, two = (min(runs[jobs], key=wall_of)["wall_seconds"] for jobs in (1, 2))
    return {"one_job_seconds": one, "two_jobs_seconds": two, "two_jobs_are_faster_by": one / two}


def measure_guide(paths: Sequence[Path], tokenizer: str) -> dict[str, float]:
    """Run steps 2 to 12 of the guide over some recordings, on one core."""
    import datasets
    from transformers import WhisperFeatureExtractor, WhisperTokenizer

    datasets.disable_progress_bars()
    tokenize = WhisperTokenizer.from_pretrained(tokenizer, language="English", task="transcribe") if tokenizer else None
    recipe = GuideRecipe(WhisperFeatureExtractor(), tokenize)
    with one_core(), tempfile.TemporaryDirectory() as cache:
        dataset = datasets.Dataset.from_dict({"audio": [str(p) for p in paths], "text": [TEXT] * len(paths)})
        warm = dataset.select([0]).map(recipe, cache_file_name=f"{cache}/warm.arrow")
        begun, cpu = time.perf_counter(), time.process_time()
        kept = dataset.filter(is_valid, cache_file_name=f"{cache}/filtered.arrow")
        mapped = kept.map(recipe, cache_file_name=f"{cache}/mapped.arrow")
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    assert len(warm) == 1
    assert len(mapped) == len(paths)
    seconds = sum(soundfile.info(path).duration for path in paths)
    return {"wall_seconds": wall, "cpu_seconds": cpu, "audio_seconds": seconds}


def read_16_khz(path: str) -> np.ndarray:
    waveform, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(waveform, rate, 16_000, quality="HQ")


def is_valid(example: dict[str, Any]) -> bool:
    seconds = len(read_16_khz(example["audio"])) / 16_000
    return len(example["text"].strip()) > 5 and seconds > 1.0 and seconds < 30


class GuideRecipe:
    """The guide's prepare_train_dataset; without a tokenizer, to its advantage, it makes no labels."""

    def __init__(self, extractor: Any, tokenizer: Any) -> None:
        from audiomentations import AddGaussianNoise, Compose, Gain

        noise = AddGaussianNoise(min_amplitude=0.0005, max_amplitude=0.003, p=0.2)
        self.augment = Compose([noise, Gain(min_gain_db=-2, max_gain_db=2, p=0.2)])
        self.extractor, self.tokenizer = extractor, tokenizer

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        """Trim, level, augment, extract features, tokenize."""
        import librosa

        waveform, _ = librosa.effects.trim(read_16_khz(example["audio"]), top_db=30)
        if np.max(np.abs(waveform)) > 0:
            waveform = waveform / np.max(np.abs(waveform))
        waveform = self.augment(samples=waveform.astype(np.float32), sample_rate=16_000)
        example["input_features"] = self.extractor(waveform, sampling_rate=16_000).input_features[0]
        text = re.sub(r"\s+", " ", re.sub(r"[^a-z0-9\s]", "", example["text"].lower())).strip()
        example["labels"] = list(map(int, self.tokenizer(text).input_ids)) if self.tokenizer else []
        return example


def measure_rows(folder: Path, num_rows: int) -> dict[str, Any]:
    """Prepare a manifest of made-up rows, decoding stubbed; one row in ten is kept, to spare the disk."""
    (folder / "keep").write_bytes(b"KEEP")
    (folder / "drop").write_bytes(b"DROP")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("audios", "transcription"))
        writer.writerows(("drop" if i % 10 else "keep", f"{TEXT} {i}") for i in range(num_rows))
    config = PrepareConfig(
        trim_db=0.0,
        peak=0.0,
        min_seconds=0.0,
        max_reject_fraction=1.0,
        shard_mb=1,
        decoders=({"kind": "benchmarks.stub_decoder:StubDecoder"},),
    )
    begun, peak, planned = time.perf_counter(), 0.0, 0.0
    before = own_peak_mb()
    for event in prepare_corpus(folder / "rows.csv", folder / "out", config):
        if isinstance(event, PlanMade):
            planned = time.perf_counter() - begun
            plan_peak = own_peak_mb()
        elif isinstance(event, Progress):
            peak = max(peak, worker_peak_mb(folder / "out"))
        elif isinstance(event, Note):
            print(event.message, flush=True)
    return {
        "num_rows": num_rows,
        "main_peak_mb_before": before,
        "main_peak_mb_plan": plan_peak,
        "main_peak_mb": own_peak_mb(),
        "worker_peak_mb": peak,
        "plan_seconds": planned,
        "wall_seconds": time.perf_counter() - begun,
    }


@contextmanager
def one_core(*, is_wanted: bool = True) -> Iterator[None]:
    """Keep this process, and those it starts, on one core."""
    cores = os.sched_getaffinity(0)
    if is_wanted:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def write_manifest(path: Path, sources: Sequence[Path]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("audios", "transcription"), *((source, TEXT) for source in sources)])
    return path


def worker_pids(out: Path) -> list[int]:
    return [int(path.name) for path in (out / ".prepare/workers").iterdir()]


def worker_cpu(out: Path) -> float:
    """Return the CPU seconds of all workers so far, user and system."""
    ticks = 0
    for pid in worker_pids(out):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def worker_peak_mb(out: Path) -> float:
    return max((peak_mb(pid) for pid in worker_pids(out)), default=0.0)


def own_peak_mb() -> float:
    return peak_mb(os.getpid())


def peak_mb(pid: int) -> float:
    """Return the largest resident memory a process has had, in 10^6 bytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0.0
    lines = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(next(lines, 0)) * 1.024e-3  # a process that has just ended has no memory any more


def wall_of(run: dict[str, float]) -> float:
    return run["wall_seconds"]


def machine() -> dict[str, Any]:
    return describe_machine("numpy", "soundfile", "soxr", libsndfile=soundfile.__libsndfile_version__)


def print_table(results: dict[str, Any]) -> None:
    for suffix, found in results.get("formats", {}).items():
        print(
            f"{suffix:5} {found['audio_seconds_per_second']:6.0f} x real time, {found['ratio_wall']:.1%} of the floor "
            f"({found['ratio_cpu']:.1%} of its CPU time), worker {found['prepare']['worker_peak_mb']:.0f} MB"
        )
    if "jobs" in results:
        print(f"two jobs are {results['jobs']['two_jobs_are_faster_by']:.2f} x as fast as one")
        guide = results["guide"]
        print(
            f"one core is {guide['prepare_is_faster_by_wall']:.1f} x as fast as the guide's recipe "
            f"({guide['prepare_is_faster_by_cpu']:.1f} x by CPU time)"
        )
    if "rows" in results:
        found = results["rows"]
        print(f"{found['num_rows']} rows: main process {found['main_peak_mb']:.0f} MB, {found['wall_seconds']:.0f} s")


if __name__ == "__main__":
    main()
