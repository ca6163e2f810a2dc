"""What `train --prompts` changes in long recordings that are transcribed with the text before each window.

    python -m benchmarks.bench_prompts WORK --digits spoken-digits/ --model RUN/model

Spoken digits are joined to recordings, with subtitles beside them: from the training part to train
on, from the test part to transcribe. The model is trained alike for each share of prompts, and transcribes the test
recordings with `--condition-on-previous` and without. All are compared after the last step, whatever their WER. Steps
whose output is there are not repeated.
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.machine import write_result
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.weights import load_weights
from whisper_shard.model.whisper import load_whisper
from whisper_shard.score.wer import compare_scores, score_texts
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints, read_tensors

SHARES = (0.0, 0.5, 1.0)
TRAIN = [
    "--window",
    "auto",
    "--lr",
    "2e-5",
    "--warmup",
    "0.1",
    "--language",
    "en",
    "--precision",
    "bf16",
    "--seed",
    "1",
]
TRAIN += ["--timestamps", "1", "--eval-limit", "1", "--eval-every", "100000", "--patience", "0", "--threads", "1"]
TRAIN += ["--max-new-tokens", "128", "--workers", "0", "--average", "0"]


def main() -> None:
    """Train, transcribe and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for recordings, models and texts")
    parser.add_argument("--digits", type=Path, required=True, help="folder with train.csv, test.csv and recordings")
    parser.add_argument("--model", required=True, help="Whisper to start from, in a Hugging Face folder")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=2, help="utterances of up to 30 s in a step")
    parser.add_argument("--minutes", type=float, default=1.5, help="length of each recording")
    parser.add_argument("--train", type=int, default=8, help="recordings for training")
    parser.add_argument("--test", type=int, default=3, help="recordings to transcribe")
    args = parser.parse_args()
    for part, count in (("train", args.train), ("test", args.test)):
        if not (args.work / part).is_dir():
            write_recordings(args.digits / f"{part}.csv", args.work / part, count=count, minutes=args.minutes)
    for output, command in list_steps(args):
        if not (args.work / output).exists():
            print("whisper-shard", *command, flush=True)
            subprocess.run([sys.executable, "-m", "whisper_shard", *map(str, command)], check=True)
        if command[0] == "train":
            save_last(args.work / output, args.model)
    write_result("prompts", f"python -m benchmarks.bench_prompts {' '.join(sys.argv[1:])}", measure(args), "torch")


def list_steps(args: argparse.Namespace) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yield the output of each step, and its command."""
    work = args.work
    short = ["--min-seconds", "0.05", "--min-text-chars", "1", "--jobs", "1"]
    yield "data/train/dataset.json", ["prepare", work / "train", work / "data", "--eval-fraction", "0.1", *short]
    for share in SHARES:
        run = work / f"run-{share:g}"
        length = ["--max-steps", args.steps, "--batch-size", args.batch_size]
        yield (
            f"run-{share:g}/report.json",
            ["train", work / "data", run, "--model", args.model, "--prompts", share, *length, *TRAIN],
        )
        for condition in (False, True):
            out = f"texts-{share:g}-{condition}"
            given = ["--condition-on-previous"] if condition else []
            yield (
                out,
                ["transcribe", run / "last", work / "test", "--output", work / out, "--language", "en",
                 "--precision", "bf16", "--threads", "1", *given],
            )  # fmt: skip


def save_last(report: Path, model: str) -> None:
    """Save the weights of the last step of a run as a model of their own: its best ones may be those it began with."""
    run = report.parent
    if not (run / "last").exists():
        loaded, checkpoints = load_whisper(model), run / "checkpoints"
        weights = read_tensors(checkpoint_path(checkpoints, list_checkpoints(checkpoints)[-1]), "model")
        load_weights(loaded.model, weights)
        save_model_folder(loaded, run / "last", language="en", task="transcribe")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return WER with and without the text before, for each share of prompts, and what the text before changes."""
    names = sorted(path.stem for path in (args.work / "test").glob("*.txt.reference"))
    names = [name.removesuffix(".txt") for name in names]
    said = [(args.work / "test" / f"{name}.txt.reference").read_text() for name in names]
    found: dict[str, Any] = {"recordings": len(names), "words": sum(len(text.split()) for text in said)}
    scores = {}
    for share in SHARES:
        for condition in (False, True):
            folder = args.work / f"texts-{share:g}-{condition}"
            heard = [next(folder.rglob(f"{name}*.txt")).read_text() for name in names]
            scores[share, condition] = score = score_texts(said, heard, keys=names)
            key = f"prompts {share:g}, {'with' if condition else 'without'} the text before"
            found[key] = {
                "wer": score.wer, "interval": score.interval, "substitutions": score.substitutions,
                "deletions": score.deletions, "insertions": score.insertions,
            }  # fmt: skip
    for share in SHARES[1:]:
        compared = compare_scores(scores[share, True], scores[SHARES[0], True])
        found[f"prompts {share:g} against 0, with the text before"] = {
            "difference": compared.difference, "interval": compared.interval,
        }  # fmt: skip
    return found


def write_recordings(table: Path, folder: Path, *, count: int, minutes: float) -> None:
    """Write recordings of joined digits with their subtitles, and their whole texts for comparison."""
    folder.mkdir(parents=True)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng(7)
    rng.shuffle(rows)  # type: ignore[arg-type]
    for number in range(count):
        name = f"recording-{number:02d}"
        waveform, rate, cues = join(table.parent, rows, minutes * 60, rng)
        soundfile.write(folder / f"{name}.wav", waveform, rate, subtype="PCM_16")
        lines = [f"{i}\n{show(start)} --> {show(end)}\n{text}\n" for i, (start, end, text) in enumerate(cues, 1)]
        (folder / f"{name}.srt").write_text("\n".join(lines))
        (folder / f"{name}.txt.reference").write_text(" ".join(text for _, _, text in cues))


def join(
    folder: Path, spoken: list[dict[str, str]], seconds: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], int, list[tuple[float, float, str]]]:
    """Take digits from the list until a recording is long enough; return it, its rate, and when each is said."""
    parts, cues, position, rate = [], [], 0.0, 8_000
    while position < seconds and spoken:
        row = spoken.pop()
        waveform, rate = soundfile.read(folder / row["audios"])
        pause = 1e-4 * rng.standard_normal(round(rng.uniform(0.1, 0.5) * rate))
        parts += [pause, waveform / np.abs(waveform).max() * 0.7]
        start = position + len(pause) / rate
        position = start + len(waveform) / rate
        cues.append((start, position, row["transcription"]))
    return np.concatenate(parts), rate, cues


def show(seconds: float) -> str:
    """Return a time as SRT writes it."""
    minutes, rest = divmod(seconds, 60)
    return f"00:{int(minutes):02d}:{rest:06.3f}".replace(".", ",")


if __name__ == "__main__":
    main()
