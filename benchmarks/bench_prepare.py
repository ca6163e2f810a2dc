"""Speed and memory of prepare, against its lower bound, against two jobs and against the guide's recipe.

    python -m benchmarks.bench_prepare                                          speed: about ten minutes
    python -m benchmarks.bench_prepare --parts rows --manifest-rows 10000000    memory of the main process
    python -m benchmarks.bench_prepare --parts command --minutes 160 --hours 2.67    1,258 different mp3 files

Each part is measured separately, with its own machine and arguments in the result; no ratio combines two parts. A part
that is measured again on the same day replaces its earlier figures.

The lower bound (`floor`) is the time of soundfile's decoding and soxr's HQ resampling alone, for the same files in one
process. Both have one core and are measured alternately, in changing order; figures are medians over the turns, ratios
are medians of the ratios within each turn. The speed of prepare is measured from the plan to the last committed shard:
it does not include process starts (given separately), but everything else: reading, decoding, resampling, trimming,
levelling, text, filters, hashing, writing, fsync, receipts. The recordings are synthetic, speech-like sounds, repeated
in the manifest to reach the requested hours; both read them from the page cache.

The guide's recipe is its steps 2 to 12: a filter and a map of Hugging Face datasets over decoded audio, librosa's trim,
WhisperFeatureExtractor. Audio is decoded with soundfile and resampled with soxr inside filter and map, as
`cast_column(Audio(...))` does with its own decoder in both steps. It also stores the audio again, which is not
measured, in its favour; neither is the tokenizer where no `--tokenizer` is given.
"""

import argparse
import csv
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import soxr

from benchmarks.machine import describe_machine
from benchmarks.speech_like import FORMATS, make_recordings
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.events import Note, PlanMade, Progress, ShardFinished
from whisper_shard.prepare.run import prepare_corpus

RESULTS = Path(__file__).parent / "results"
TEXT = "the text of this utterance has about sixty characters in all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=["formats", "jobs", "guide"])
    parser.add_argument("--minutes", type=float, default=6.0, help="minutes of different recordings, for each format")
    parser.add_argument("--hours", type=float, default=2.0, help="hours of audio in the manifest, for each format")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--guide-utterances", type=int, default=46)
    parser.add_argument(
        "--tokenizer", default="", help="Whisper folder whose tokenizer the guide's recipe uses; empty: none"
    )
    parser.add_argument("--manifest-rows", type=int, default=1_000_000, help="rows of the manifest of the part `rows`")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-prepare.json"
    for part in args.parts:
        before = machine()
        with tempfile.TemporaryDirectory(prefix="bench-prepare-") as folder:
            results = PARTS[part](Path(folder), args)
        report = json.loads(path.read_text()) if path.exists() else {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
        report["machine"] = before
        report.setdefault("parts", {})[part] = {"machine": before, "arguments": vars(args), "results": results}
        path.write_text(json.dumps(report, indent=1) + "\n")
        print_part(part, results)
    print(f"wrote benchmarks/results/{path.name}")


def measure_formats(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare prepare with its lower bound, alternately, for each format."""
    results: dict[str, Any] = {}
    for suffix in args.formats:
        paths, corpus = make_corpus(folder, suffix, args)
        floors, runs = [], []
        for turn in range(args.turns):
            if turn % 2:
                runs.append(measure_prepare(corpus, folder, jobs=1))
                floors.append(measure_floor(paths))
            else:
                floors.append(measure_floor(paths))
                runs.append(measure_prepare(corpus, folder, jobs=1))
        ratios = {
            clock: [
                floor[f"{clock}_seconds"] / ours[f"{clock}_seconds"] for floor, ours in zip(floors, runs, strict=True)
            ]
            for clock in ("wall", "cpu")
        }
        results[suffix] = {
            "floor": medians(floors),
            "prepare": medians(runs),
            "ratio_wall": median(ratios["wall"]),
            "ratio_cpu": median(ratios["cpu"]),
            "ratios_of_turns": ratios,
            "audio_seconds_per_second": medians(floors)["audio_seconds"] / medians(runs)["wall_seconds"],
        }
    return results


def measure_command(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare the CPU time of the whole command, starts included, with the lower bound; and that for 8 short files."""
    paths, corpus = make_corpus(folder, "mp3", args)
    short = make_recordings(folder / "wav", "wav", 1.0, sample_rate=16_000)[:8]
    small = write_manifest(folder / "short.csv", short)
    turns = []
    for _ in range(args.turns):
        before = measure_floor(paths)["cpu_seconds"]
        turn = {
            "without_quality": cpu_of_command(corpus, folder, "--no-quality"),
            "with_quality": cpu_of_command(corpus, folder),
            "eight_files": cpu_of_command(small, folder),
        }
        turns.append({**turn, "floor": (before + measure_floor(paths)["cpu_seconds"]) / 2})
    names = ("without_quality", "with_quality")
    return {
        "turns": turns,
        "num_rows": len(paths),
        "num_files": len(set(paths)),
        "medians": medians(turns),
        "share_of_floor": {name: median(turn["floor"] / turn[name] for turn in turns) for name in names},
        "share_of_floor_less_eight_files": {
            name: median(turn["floor"] / (turn[name] - turn["eight_files"]) for turn in turns) for name in names
        },
    }


def cpu_of_command(corpus: Path, folder: Path, *flags: str) -> float:
    """Return the CPU seconds of all processes of ``whisper-shard prepare``."""
    out = folder / "command"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "whisper_shard", "prepare", str(corpus), str(out), *flags]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(out)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_jobs(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare two jobs with one, alternately."""
    _, corpus = make_corpus(folder, "mp3", args)
    runs = [[measure_prepare(corpus, folder, jobs=jobs)["wall_seconds"] for jobs in (1, 2)] for _ in range(args.turns)]
    return {"seconds_of_turns": runs, "two_jobs_are_faster_by": median(one / two for one, two in runs)}


def measure_guide(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare prepare with the guide's recipe on one core, alternately."""
    paths, corpus = make_corpus(folder, "mp3", args)
    some = sorted(set(paths))[: args.guide_utterances]
    turns = [(measure_recipe(some, args.tokenizer), measure_prepare(corpus, folder, jobs=1)) for _ in range(args.turns)]
    seconds, guide_seconds = seconds_of(paths), seconds_of(some)
    results: dict[str, Any] = {"guide": medians([guide for guide, _ in turns]), "guide_audio_seconds": guide_seconds}
    for clock in ("wall", "cpu"):
        name = f"{clock}_seconds"
        ratios = [(guide[name] / guide_seconds) / (ours[name] / seconds) for guide, ours in turns]
        results |= {f"prepare_is_faster_by_{clock}": median(ratios), f"ratios_of_turns_{clock}": ratios}
    return results


def make_corpus(folder: Path, suffix: str, args: argparse.Namespace) -> tuple[list[Path], Path]:
    """Return the recordings, repeated to reach the hours, and the manifest that lists them."""
    paths = make_recordings(folder / suffix, suffix, args.minutes)
    repeated = paths * max(1, round(args.hours * 60 / args.minutes))
    return repeated, write_manifest(folder / f"{suffix}.csv", repeated)


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
    """Prepare a corpus; with one job, on one core together with the main process."""
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


def measure_recipe(paths: Sequence[Path], tokenizer: str) -> dict[str, float]:
    """Run steps 2 to 12 of the guide over some recordings, on one core."""
    import datasets
    import torch
    from transformers import WhisperFeatureExtractor, WhisperTokenizer

    datasets.disable_progress_bars()
    torch.set_num_threads(1)  # two threads that wait for each other on one core are four times slower than one
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
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def seconds_of(paths: Sequence[Path]) -> float:
    lengths = {path: soundfile.info(path).duration for path in set(paths)}
    return sum(lengths[path] for path in paths)


def read_16_khz(path: str) -> np.ndarray:
    waveform, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(waveform, rate, 16_000, quality="HQ")


def is_valid(example: dict[str, Any]) -> bool:
    seconds = len(read_16_khz(example["audio"])) / 16_000
    return len(example["text"].strip()) > 5 and seconds > 1.0 and seconds < 30


class GuideRecipe:
    """The guide's prepare_train_dataset; without a tokenizer it makes no labels, in its favour."""

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


def measure_rows(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Prepare a synthetic manifest with a stub decoder; one row in ten is kept, to save disk space."""
    num_rows = args.manifest_rows
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
    """Restrict this process, and those it starts, to one core."""
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


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median(run[name] for run in runs) for name in runs[0]}


def machine() -> dict[str, Any]:
    return describe_machine("numpy", "soundfile", "soxr", libsndfile=soundfile.__libsndfile_version__)


def print_part(part: str, results: dict[str, Any]) -> None:
    if part == "formats":
        for suffix, found in results.items():
            print(
                f"{suffix:5} {found['audio_seconds_per_second']:6.0f} x real time, {found['ratio_wall']:.1%} of the "
                f"floor ({found['ratio_cpu']:.1%} by CPU time), worker {found['prepare']['worker_peak_mb']:.0f} MB"
            )
    elif part == "jobs":
        print(f"two jobs are {results['two_jobs_are_faster_by']:.2f} x as fast as one")
    elif part == "command":
        whole, found = results["share_of_floor"], results["share_of_floor_less_eight_files"]
        print(
            f"{results['num_files']} files: decoding and resampling are {found['without_quality']:.1%} of the "
            f"command's CPU time less that of eight files without quality ({whole['without_quality']:.1%} of it all), "
            f"{found['with_quality']:.1%} with it ({whole['with_quality']:.1%}); eight files take "
            f"{results['medians']['eight_files']:.2f} s"
        )
    elif part == "guide":
        print(
            f"one core is {results['prepare_is_faster_by_wall']:.1f} x as fast as the guide's recipe "
            f"({results['prepare_is_faster_by_cpu']:.1f} x by CPU time)"
        )
    else:
        found, seconds = results["main_peak_mb"], results["wall_seconds"]
        print(f"{results['num_rows']} rows: main process {found:.0f} MB, {seconds:.0f} s")


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "formats": measure_formats,
    "command": measure_command,
    "jobs": measure_jobs,
    "guide": measure_guide,
    "rows": measure_rows,
}

if __name__ == "__main__":
    main()
