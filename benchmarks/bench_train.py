"""Training speed against the popular guide's recipe on current transformers, all in one run on one machine.

    python -m benchmarks.bench_train --model whisper-base/ --digits spoken-digits/

Measures seconds and CPU seconds per utterance for

- ``literal``: Seq2SeqTrainer as in the guide: batch 4 x 16, gradient checkpointing, fp16 (which does not run on a CPU:
  fp32 there);
- ``tuned``: Seq2SeqTrainer with better settings: 16 utterances per pass, bf16, no checkpointing;
- ``full``: whisper-shard with every utterance in a 30 s window;
- ``auto``: whisper-shard with its default windows.

The features of the recipe are computed before its timer starts, as in the guide; those of whisper-shard are computed in
the step. bench_eval.py measures evaluation, and bench_windows.py the number of steps to the same WER.

On a GPU, for example

    python -m benchmarks.bench_train --model whisper-small/ --digits spoken-digits/ --device cuda --batch 64 \
        --steps 10 --workers 8 --peak-tflops 989

all put as much of a batch into a pass as fits, use `--workers` loader processes, and are not timed in their first
steps. ``tuned`` is measured twice; ``tuned flash`` is without cuDNN's attention, which builds a plan for every new
shape. The peak of memory is reported, and with ``--peak-tflops`` (dense bf16: 989 for an H100 SXM, 312 for an A100) the
share of that peak that was used for real audio (MFU).
"""

import argparse
import gc
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.flops import count_training_flops
from benchmarks.gpu import gpu_name, our_settings, their_settings, use_tf32
from benchmarks.machine import describe_machine
from benchmarks.speech import read_digits, speak_sentences, write_speech
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.model.device import DTYPES, set_threads
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import load_whisper
from whisper_shard.stream.loader import open_evaluation, open_loader
from whisper_shard.train.build import build_trainable
from whisper_shard.train.global_batch import GlobalBatchBuilder, Requests
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.context import Machine, keep_freed_memory
from whisper_shard.train.run.folder import library_versions
from whisper_shard.train.silence_source import find_silence_source
from whisper_shard.train.step import TrainStep
from whisper_shard.utterance import SAMPLE_RATE

RESULTS = Path(__file__).parent / "results"


@contextmanager
def measured(into: dict[str, float], count: int, device: torch.device) -> Iterator[None]:
    """Write wall and CPU seconds per utterance into a dict, on a GPU also the peak of memory."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    if on_gpu:
        torch.cuda.synchronize(device)
        into["peak_gpu_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    into |= {
        "utterances": count,
        "wall_seconds_per_utterance": (time.perf_counter() - began) / count,
        "cpu_seconds_per_utterance": cpu / count,
    }


def time_ours(
    args: argparse.Namespace, data: Dataset, *, settings: dict[str, Any], steps: int, batch: int, warm_steps: int
) -> dict[str, float]:
    """Train some steps with whisper-shard, in bf16 unless the settings say otherwise; those before are not timed."""
    device = torch.device(args.device)
    loaded = load_whisper(args.model)
    sample_format = "int16" if device.type == "cuda" else "float32"
    of_all = {"precision": "bf16", "batch_size": batch, "workers": args.workers, "sample_format": sample_format}
    config = replace_settings(TrainConfig(model=args.model), {**of_all, **settings})
    machine = Machine(device=device, dtype=DTYPES[config.compute.precision], ranks=Ranks())
    trainable = build_trainable(loaded, config, machine)
    builder = GlobalBatchBuilder(
        labeler=Labeler(loaded.tokenizer, is_multilingual=loaded.is_multilingual),
        config=config,
        ranks=machine.ranks,
        total_steps=1000,
        longest_window=trainable.longest_window,
    )
    silence_source = find_silence_source([data], config).waveform if config.window.borrows_silence else None
    train_step = TrainStep(trainable, builder, config, machine, silence_source)
    loader = open_loader(data, config.stream, pin_memory=device.type == "cuda")
    batches = iter(loader)
    small = next(iter(open_loader(data, replace(config.stream, batch_size=4, workers=0))))
    with our_settings(device):
        train_step(small, step=0, lr=0.0, requests=Requests()).read()
        for step in range(warm_steps):
            train_step(next(batches), step=step, lr=0.0, requests=Requests()).read()
    found: dict[str, float] = {}
    windows = real = tokens = waited = 0.0
    with our_settings(device), measured(found, steps * batch, device):
        for step in range(steps):
            began = time.perf_counter()
            learned = next(batches)
            waited += time.perf_counter() - began
            result = train_step(learned, step=step + 1, lr=1e-5, requests=Requests())
            windows += result.global_batch.padded_samples
            real += result.global_batch.num_samples
            tokens += result.global_batch.num_tokens
        result.read()
    loader.close()
    count = steps * batch
    found |= {
        "window_seconds": windows / SAMPLE_RATE / count,
        "audio_seconds": real / SAMPLE_RATE / count,
        "tokens": tokens / count,
        "data_wait_share": waited / count / found["wall_seconds_per_utterance"],
    }
    return found | judge_speed(args, loaded, found)


def judge_speed(args: argparse.Namespace, loaded: Any, found: dict[str, float]) -> dict[str, float]:
    """Return hours of audio per hour, and the share of the device's peak used for real audio, where it is known."""
    wall = found["wall_seconds_per_utterance"]
    judged = {"audio_hours_per_hour": found["audio_seconds"] / wall}
    if args.peak_tflops:
        flops = count_training_flops(loaded.model.config, seconds=found["audio_seconds"], tokens=found["tokens"])
        judged["mfu"] = flops / wall / (args.peak_tflops * 1e12)
    return judged


def guide_features(loaded: Any, data: Dataset, count: int) -> list[dict[str, Any]]:
    """Compute 30 s spectrograms and token ids as the guide's dataset preparation does."""
    loaded.tokenizer.set_prefix_tokens(language="en", task="transcribe")
    rows = []
    for batch in open_evaluation(data, batch_size=count, limit=count):
        for waveform, size, text in zip(batch.waveforms, batch.num_samples.tolist(), batch.texts, strict=True):
            samples = waveform[:size].numpy()
            features = loaded.processor.feature_extractor(samples, sampling_rate=SAMPLE_RATE).input_features[0]
            labels = loaded.tokenizer(text).input_ids
            rows.append({"input_features": features, "labels": labels, "seconds": size / SAMPLE_RATE})
    return rows[:count]


class Collator:
    """The guide's collator, without the doubled start token of its labels."""

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
    """Build the guide's Seq2SeqTrainer with the changes that current transformers needs."""
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    loaded.model.generation_config.language, loaded.model.generation_config.task = "en", "transcribe"
    of_the_guide = {
        "learning_rate": 1e-5, "warmup_steps": 0.05, "lr_scheduler_type": "cosine", "weight_decay": 0.01,
        "logging_steps": 50, "seed": 42,
    }  # fmt: skip
    settings = Seq2SeqTrainingArguments(
        output_dir=folder, save_strategy="no", eval_strategy="no", report_to=[], disable_tqdm=True,
        remove_unused_columns=False, **(of_the_guide | arguments),
    )  # fmt: skip
    return Seq2SeqTrainer(model=loaded.model, args=settings, train_dataset=train, data_collator=Collator(loaded))


def time_guide(
    args: argparse.Namespace,
    data: Dataset,
    *,
    steps: int,
    batch: int,
    micro: int,
    literal: bool,
    warm_steps: int,
    cudnn_attention: bool = True,
) -> dict[str, float]:
    """Train some optimizer steps with Seq2SeqTrainer; on a GPU with smaller passes if the memory is not enough."""
    device = torch.device(args.device)
    while True:
        try:
            with their_settings(cudnn_attention=cudnn_attention):
                found = run_guide(args, data, steps, batch=batch, micro=micro, literal=literal, warm_steps=warm_steps)
            return found | {"utterances_a_pass": micro}
        except torch.OutOfMemoryError:
            if micro == 1:
                raise
            micro //= 2
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def run_guide(
    args: argparse.Namespace, data: Dataset, steps: int, *, batch: int, micro: int, literal: bool, warm_steps: int
) -> dict[str, float]:
    """Train with passes of a given size; a first small step, and on a GPU some more, are not timed."""
    device = torch.device(args.device)
    loaded = load_whisper(args.model)
    rows = guide_features(loaded, data, (steps + warm_steps) * batch)
    loaded.model.config.use_cache = False
    arguments: dict[str, Any] = {
        "gradient_checkpointing": literal,
        "bf16": not literal,
        "fp16": literal and device.type == "cuda",
        "use_cpu": device.type == "cpu",
        "per_device_train_batch_size": micro,
        "dataloader_num_workers": args.workers,
    }
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        warm = make_trainer(loaded, rows[:micro], folder, max_steps=1, gradient_accumulation_steps=1, **arguments)
        warm.train()
        trainer = make_trainer(
            loaded, rows, folder, gradient_accumulation_steps=max(1, batch // micro), max_steps=steps + warm_steps,
            **arguments,
        )  # fmt: skip
        trainer.add_callback(make_clock(measured(found, steps * batch, device), begin=warm_steps))
        trainer.train()
    found["audio_seconds"] = sum(row["seconds"] for row in rows) / len(rows)
    found["tokens"] = sum(len(row["labels"]) - 1 for row in rows) / len(rows)
    return found | judge_speed(args, loaded, found)


def make_clock(clock: AbstractContextManager[None], *, begin: int) -> Any:
    """Return a callback that enters a context after some steps (0: before the first) and leaves it after the last."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, _settings: Any, _state: Any, _control: Any, **_more: Any) -> None:
            if begin == 0:
                clock.__enter__()

        def on_step_end(self, _settings: Any, state: Any, _control: Any, **_more: Any) -> None:
            if state.global_step == begin:
                clock.__enter__()
            elif state.global_step == state.max_steps:
                clock.__exit__(None, None, None)

    return Clock()


def ratios(train: dict[str, Any], device: str) -> dict[str, float]:
    """Return how many times faster whisper-shard is than the guide's recipe: CPU time, or on a GPU wall time."""
    measure = "cpu_seconds_per_utterance" if device == "cpu" else "wall_seconds_per_utterance"
    pairs = [(theirs, ours) for theirs in ("literal", "tuned", "tuned flash") for ours in ("full", "auto")]
    pairs = [pair for pair in pairs if pair[0] in train]
    return {f"{theirs} / {ours}": round(train[theirs][measure] / train[ours][measure], 2) for theirs, ours in pairs}


def main() -> None:
    """Make the two corpora, measure all four on both, print a table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of whisper-base")
    parser.add_argument(
        "--digits", type=Path, help="folder of the spoken digits, with train.csv; without it, they are left out"
    )
    parser.add_argument("--batch", type=int, default=16, help="utterances per optimizer step; 64 in the guide")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps that are timed")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="bf16 peak of the device, for MFU; 0: unknown")
    parser.add_argument("--name", default="train", help="name of the result in benchmarks/results")
    parser.add_argument("--out", type=Path, help="file to write instead of one in benchmarks/results")
    args = parser.parse_args()
    set_threads(args.threads)
    keep_freed_memory()
    device = torch.device(args.device)
    use_tf32(device)
    machine = describe_machine(
        threads=torch.get_num_threads(), versions=library_versions(), device=args.device, gpu=gpu_name(device)
    )
    result: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine}
    arguments = {name: value for name, value in vars(args).items() if name != "out"}
    result["settings"] = arguments | {"model": Path(args.model).name, "digits": args.digits and args.digits.name}
    on_gpu = device.type == "cuda"
    warm_steps = 4 if on_gpu else 0
    ours = {"steps": 4 * args.steps, "batch": args.batch, "warm_steps": warm_steps}
    theirs = {"steps": args.steps, "batch": args.batch, "warm_steps": warm_steps}
    tuned = {"micro": args.batch if on_gpu else min(args.batch, 16), "literal": False, **theirs}
    count = args.batch * (ours["steps"] + ours["warm_steps"] + 1)
    sources: dict[str, Callable[[], Iterator[Any]]] = {
        "read speech of 7 to 8 s": lambda: speak_sentences(count, shortest=7, longest=8, seed=3),
    }
    if args.digits:
        sources["spoken digits"] = lambda: read_digits(args.digits / "train.csv", count)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, make) in enumerate(sources.items()):
            data = write_speech(Path(folder) / str(number), make())
            train = {
                "literal": time_guide(args, data, micro=4, literal=True, **theirs),
                "tuned": time_guide(args, data, **tuned),
                **({"tuned flash": time_guide(args, data, cudnn_attention=False, **tuned)} if on_gpu else {}),
                "full": time_ours(args, data, settings={"window": "full"}, **{**ours, "steps": args.steps}),
                "auto": time_ours(args, data, settings={"window": "auto"}, **ours),
            }
            result[name] = {"train": train, "ratios": ratios(train, args.device)}
            print_table(name, result[name])
    RESULTS.mkdir(exist_ok=True)
    path = args.out or RESULTS / f"{result['date']}-{args.name}.json"
    path.write_text(json.dumps(result, indent=1, default=str) + "\n")
    print(f"written to {path}")


def print_table(name: str, found: dict[str, Any]) -> None:
    """Print the results of one corpus."""
    print(f"\n{name}")
    shown = ("audio_hours_per_hour", "mfu", "peak_gpu_gb", "utterances_a_pass", "data_wait_share")
    for way, numbers in found["train"].items():
        wall, cpu = numbers["wall_seconds_per_utterance"], numbers["cpu_seconds_per_utterance"]
        more = "".join(f"  {key} {numbers[key]:.3g}" for key in shown if key in numbers)
        print(f"  {way:<18}{cpu:7.2f} CPU s and {wall:6.2f} s an utterance{more}")
    for pair, ratio in found["ratios"].items():
        print(f"  {pair:<18}{ratio:7.2f}")


if __name__ == "__main__":
    main()
