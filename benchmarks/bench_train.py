"""Training speed against the well-known guide's recipe on current transformers, all in one run on one machine.

    python -m benchmarks.bench_train --model whisper-base/ --digits spoken-digits/

Measures seconds and CPU seconds an utterance for

- ``literal``: Seq2SeqTrainer as in the guide: batch 4 x 16, gradient checkpointing (fp16 does not run on a CPU: fp32);
- ``tuned``: as a competent user would set it: batch 16 x 4, bf16, no checkpointing;
- ``full``: our loop with every utterance in a 30 s window;
- ``auto``: our loop with its default windows.

Features of the recipe are computed before its clock starts, as the guide does; ours are computed inside. What it takes
to evaluate is measured by bench_eval.py.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.speech import read_digits, speak_sentences, write_speech
from whisper_shard.config import TrainConfig
from whisper_shard.formats.index import Dataset
from whisper_shard.stream.loader import open_evaluation, open_loader
from whisper_shard.train.device import DTYPES
from whisper_shard.train.distributed import Ranks
from whisper_shard.train.model import load_whisper
from whisper_shard.train.runfolder import library_versions
from whisper_shard.train.setup import build_network, build_optimizer, keep_freed_memory
from whisper_shard.train.step import Flags, Stepper
from whisper_shard.train.tokens import Labeler
from whisper_shard.utterance import SAMPLE_RATE

RESULTS = Path(__file__).parent / "results"
CPU = torch.device("cpu")


@contextmanager
def measured(into: dict[str, float], count: int) -> Iterator[None]:
    """Write wall and CPU seconds for each of ``count`` utterances into a dict."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    into |= {
        "utterances": count,
        "wall_seconds_per_utterance": (time.perf_counter() - began) / count,
        "cpu_seconds_per_utterance": cpu / count,
    }


def time_ours(model: str, data: Dataset, *, window: str, steps: int, batch: int) -> dict[str, float]:
    """Train some steps with our loop's optimizer step, bf16; a small step before them is not timed."""
    loaded = load_whisper(model)
    config = TrainConfig(model=model, window=window, batch_size=batch, workers=0, precision="bf16")
    network = build_network(loaded, config, CPU)
    stepper = Stepper(
        network,
        build_optimizer(network.model, config),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        labeler=Labeler(loaded.tokenizer, is_multilingual=loaded.is_multilingual),
        config=config,
        ranks=Ranks(),
        dtype=DTYPES["bf16"],
        total_steps=1000,
    )
    batches = iter(open_loader(data, config))
    warm = next(iter(open_loader(data, replace(config, batch_size=4, window="auto"))))
    stepper.take(warm, step=0, lr=0.0, flags=Flags())
    found: dict[str, float] = {}
    windows = 0
    with measured(found, steps * batch):
        for step in range(steps):
            outcome = stepper.take(next(batches), step=step + 1, lr=1e-5, flags=Flags())
            outcome.read()
            windows += outcome.share.padded_samples
    return {**found, "window_seconds": windows / SAMPLE_RATE / (steps * batch)}


def guide_features(loaded: Any, data: Dataset, count: int) -> list[dict[str, Any]]:
    """Compute 30 s spectrograms and token ids as the guide's dataset preparation does."""
    loaded.tokenizer.set_prefix_tokens(language="en", task="transcribe")
    rows = []
    for batch in open_evaluation(data, batch_size=count, limit=count):
        for waveform, size, text in zip(batch.waveforms, batch.num_samples.tolist(), batch.texts, strict=True):
            samples = waveform[:size].numpy()
            features = loaded.processor.feature_extractor(samples, sampling_rate=SAMPLE_RATE).input_features[0]
            rows.append({"input_features": features, "labels": loaded.tokenizer(text).input_ids})
    return rows[:count]


class Collator:
    """The guide's collator, with the doubled start token of its labels removed."""

    def __init__(self, loaded: Any) -> None:
        self.processor = loaded.processor
        self.start = loaded.model.config.decoder_start_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        features = [{"input_features": row["input_features"]} for row in rows]
        batch = self.processor.feature_extractor.pad(features, return_tensors="pt")
        padded = self.processor.tokenizer.pad([{"input_ids": row["labels"]} for row in rows], return_tensors="pt")
        labels = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
        batch["labels"] = labels[:, 1:] if bool((labels[:, 0] == self.start).all()) else labels
        return dict(batch)


def make_trainer(loaded: Any, train: list[Any], folder: str, **arguments: Any) -> Any:
    """Build the guide's Seq2SeqTrainer with what current transformers asks for."""
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    loaded.model.generation_config.language, loaded.model.generation_config.task = "en", "transcribe"
    settings = Seq2SeqTrainingArguments(
        output_dir=folder, learning_rate=1e-5, warmup_steps=0.05, lr_scheduler_type="cosine", weight_decay=0.01,
        save_strategy="no", eval_strategy="no", report_to=[],
        logging_steps=50, seed=42, use_cpu=True, disable_tqdm=True, remove_unused_columns=False, **arguments,
    )  # fmt: skip
    return Seq2SeqTrainer(model=loaded.model, args=settings, train_dataset=train, data_collator=Collator(loaded))


def time_guide(model: str, data: Dataset, *, steps: int, batch: int, micro: int, literal: bool) -> dict[str, float]:
    """Train some optimizer steps with Seq2SeqTrainer; a small step before them is not timed."""
    loaded = load_whisper(model)
    rows = guide_features(loaded, data, steps * batch)
    loaded.model.config.use_cache = False
    arguments = {"gradient_checkpointing": literal, "bf16": not literal}
    with tempfile.TemporaryDirectory() as folder:
        warm = make_trainer(
            loaded,
            rows[:4],
            folder,
            per_device_train_batch_size=4,
            max_steps=1,
            gradient_accumulation_steps=1,
            **arguments,
        )
        warm.train()
        trainer = make_trainer(
            loaded, rows, folder, per_device_train_batch_size=micro,
            gradient_accumulation_steps=max(1, batch // micro), max_steps=steps, **arguments,
        )  # fmt: skip
        found: dict[str, float] = {}
        with measured(found, steps * batch):
            trainer.train()
    return found


def ratios(train: dict[str, Any]) -> dict[str, float]:
    """Say how many times less CPU our ways take than the guide's."""
    cpu = "cpu_seconds_per_utterance"
    pairs = [(theirs, ours) for theirs in ("literal", "tuned") for ours in ("full", "auto")]
    return {f"{theirs} / {ours}": round(train[theirs][cpu] / train[ours][cpu], 2) for theirs, ours in pairs}


def main() -> None:
    """Make the two corpora, time all ways on both, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of whisper-base")
    parser.add_argument("--digits", type=Path, required=True, help="folder of the spoken digits, with train.csv")
    parser.add_argument("--batch", type=int, default=16, help="utterances an optimizer step; the guide's is 64")
    parser.add_argument("--steps", type=int, default=1, help="optimizer steps timed")
    flags = parser.parse_args()
    keep_freed_memory()
    machine = describe_machine(threads=torch.get_num_threads(), versions=library_versions())
    result: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine}
    result["settings"] = {"model": Path(flags.model).name, "batch": flags.batch, "steps": flags.steps}
    count = 4 * flags.batch * flags.steps
    sources: dict[str, Callable[[], Iterator[Any]]] = {
        "read speech of 7 to 8 s": lambda: speak_sentences(count, shortest=7, longest=8, seed=3),
        "spoken digits": lambda: read_digits(flags.digits / "train.csv", count),
    }
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, make) in enumerate(sources.items()):
            data = write_speech(Path(folder) / str(number), make())
            run = {"steps": flags.steps, "batch": flags.batch}
            train = {
                "literal": time_guide(flags.model, data, micro=4, literal=True, **run),
                "tuned": time_guide(flags.model, data, micro=min(16, flags.batch), literal=False, **run),
                "full": time_ours(flags.model, data, window="full", **run),
                "auto": time_ours(flags.model, data, window="auto", steps=4 * flags.steps, batch=flags.batch),
            }
            result[name] = {"train": train, "ratios": ratios(train)}
            print_table(name, result[name])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['date']}-train.json"
    path.write_text(json.dumps(result, indent=1, default=str) + "\n")
    print(f"written to {path}")


def print_table(name: str, found: dict[str, Any]) -> None:
    """Print what was measured on one corpus."""
    print(f"\n{name}")
    for way, numbers in found["train"].items():
        wall, cpu = numbers["wall_seconds_per_utterance"], numbers["cpu_seconds_per_utterance"]
        print(f"  {way:<18}{cpu:7.2f} CPU s and {wall:6.2f} s an utterance")
    for pair, ratio in found["ratios"].items():
        print(f"  {pair:<18}{ratio:7.2f}")


if __name__ == "__main__":
    main()
