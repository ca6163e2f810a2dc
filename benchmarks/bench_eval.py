"""Evaluation (loss and greedy WER) against `Seq2SeqTrainer.evaluate` with `predict_with_generate`, on one model.

    python -m benchmarks.bench_eval --model whisper-base/ --digits spoken-digits/test.csv

Both evaluate the same recordings in 30 s windows with the same model, batch and limit of tokens (the guide's 128), and
their hypotheses are compared. whisper-shard is also measured in short windows with borrowed silence, which training
uses to estimate the WER. The spectrograms of the Trainer are computed before its timer starts (the usual recipe stores
them), those of whisper-shard while it runs. The Trainer is given language and task, since `generate` would otherwise
run the encoder once more to detect them, and is measured in each number format that a user would try.

The two are measured alternately, and the best turn counts: by CPU seconds on a CPU, where other programs may run at the
same time, by wall time on a GPU (``--device cuda``; use three turns, since the first one warms up, and ``--batch 64``).
On a GPU the Trainer's bfloat16 is also measured without cuDNN's attention, which builds a plan for every new shape.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from benchmarks.gpu import gpu_name, our_settings, their_settings, use_tf32
from benchmarks.machine import describe_machine
from benchmarks.speech import Spoken, read_digits, speak_sentences
from whisper_shard.model.device import DTYPES
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.score.evaluate import EvaluationSettings, evaluate_model
from whisper_shard.score.events import Window
from whisper_shard.score.wer import score_texts
from whisper_shard.stream.batch import Batch
from whisper_shard.train.run.context import keep_freed_memory

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One evaluation by whisper-shard or by the Trainer."""

    name: str
    on_gpu: bool
    wall_seconds: float
    cpu_seconds: float
    loss: float
    wer: float
    texts: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Whisper in a Hugging Face folder")
    parser.add_argument("--digits", type=Path, help="CSV of spoken digits: audios,transcription,speaker; without: none")
    parser.add_argument("--utterances", type=int, default=24, help="utterances of each corpus")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--cap", type=int, default=128, help="longest hypothesis in tokens")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="eval", help="name of the result in benchmarks/results")
    parser.add_argument("--out", type=Path, help="file to write instead of one in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    keep_freed_memory()
    use_tf32(torch.device(args.device))
    corpora = {"digits": list(read_digits(args.digits, args.utterances))} if args.digits else {}
    corpora["read"] = list(speak_sentences(args.utterances, shortest=3.0, longest=12.0, seed=1))
    results = {name: compare(args, corpus) for name, corpus in corpora.items()}
    report = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(args.device), "arguments": shown(args)}
    path = args.out or RESULTS / f"{report['date']}-{args.name}.json"
    path.write_text(json.dumps({**report, "results": results}, indent=1) + "\n")
    print(f"wrote {path}")


def shown(args: argparse.Namespace) -> dict[str, Any]:
    arguments = {name: value for name, value in vars(args).items() if name != "out"}
    return {**arguments, "model": Path(args.model).name, "digits": args.digits and args.digits.name}


def compare(args: argparse.Namespace, corpus: Sequence[Spoken]) -> dict[str, Any]:
    loaded = load_whisper(args.model)
    loaded.model.to(args.device)
    corpus = sorted(corpus, key=length)
    batches = [make_batch(corpus[i : i + args.batch]) for i in range(0, len(corpus), args.batch)]
    sides: dict[str, Callable[[], Run]] = {}
    for precision in ("fp32", "bf16"):
        windows: tuple[Window, ...] = ("full", "borrowed")
        for window in windows:
            name = f"ours {window} {precision}"
            sides[name] = Ours(name, loaded, batches, window=window, precision=precision, cap=args.cap)
    on_gpu = torch.device(args.device).type == "cuda"
    for kind in ("fp32", "bf16", "bf16_full_eval", *(("bf16_full_eval flash",) if on_gpu else ())):
        name = f"Trainer {kind}"
        sides[name] = Theirs(name, load_whisper(args.model), corpus, kind, args)
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(args.turns):
        for name, side in sides.items():
            runs[name].append(side())
            print(f"{name:<24} {runs[name][-1].wall_seconds:7.1f} s wall {runs[name][-1].cpu_seconds:7.1f} s CPU")
    return summarize(runs, corpus)


def length(spoken: Spoken) -> int:
    return len(spoken.waveform)


def make_batch(rows: Sequence[Spoken]) -> Batch:
    waveforms = torch.zeros(len(rows), max(map(length, rows)))
    for row, spoken in zip(waveforms, rows, strict=True):
        row[: len(spoken.waveform)] = torch.from_numpy(spoken.waveform)
    nothing = (None,) * len(rows)
    return Batch(
        waveforms=waveforms,
        num_samples=torch.tensor([length(spoken) for spoken in rows]),
        weights=torch.ones(len(rows)),
        keys=tuple(spoken.key for spoken in rows),
        texts=tuple(spoken.text for spoken in rows),
        languages=nothing,
        tasks=nothing,
        segments=((),) * len(rows),
        epoch=0,
        step=0,
    )


class Ours:
    def __init__(
        self, name: str, loaded: LoadedWhisper, batches: Sequence[Batch], *, window: Window, precision: str, cap: int
    ) -> None:
        self.name, self.loaded, self.batches, self.window, self.precision = name, loaded, batches, window, precision
        self.cap, self.labeler = cap, Labeler(loaded.tokenizer, "en")
        self.silence_source = batches[0].waveforms[:1, : int(batches[0].num_samples[0])]  # the shortest, as in training

    def __call__(self) -> Run:
        start = time.perf_counter(), time.process_time()
        with our_settings(self.loaded.model.device):
            found = evaluate_model(
                self.loaded,
                self.batches,
                self.labeler,
                EvaluationSettings(
                    window=self.window,
                    max_new_tokens=self.cap,
                    dtype=DTYPES[self.precision],
                    silence_source=self.silence_source,
                ),
            )
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        by_key = {row.key: row.hypothesis for row in found.utterances}
        texts = [by_key[key] for batch in self.batches for key in batch.keys]
        return Run(
            name=self.name,
            on_gpu=self.loaded.model.device.type == "cuda",
            wall_seconds=wall,
            cpu_seconds=cpu,
            loss=found.loss,
            wer=found.wer,
            texts=texts,
        )


class Theirs:
    """The usual recipe: stored features, labels by the tokenizer, a collator that removes the doubled start token."""

    def __init__(
        self, name: str, loaded: LoadedWhisper, corpus: Sequence[Spoken], kind: str, args: argparse.Namespace
    ) -> None:
        self.name, self.corpus, self.texts = name, corpus, []
        # With bf16_full_eval the Trainer casts the model, but not the features.
        self.dtype = torch.bfloat16 if kind.startswith("bf16_full_eval") else torch.float32
        self.cudnn_attention = not kind.endswith("flash")
        self.tokenizer = loaded.tokenizer
        self.tokenizer.set_prefix_tokens(language="en", task="transcribe")
        settings = loaded.model.generation_config
        settings.language, settings.task, settings.forced_decoder_ids = "en", "transcribe", None
        extract = loaded.processor.feature_extractor
        rows = [
            {
                "input_features": extract(spoken.waveform, sampling_rate=16000).input_features[0],
                "labels": self.tokenizer(f" {spoken.text}").input_ids[1:],
            }
            for spoken in corpus
        ]
        arguments = Seq2SeqTrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_eval_batch_size=args.batch,
            predict_with_generate=True,
            generation_max_length=args.cap,
            bf16=kind == "bf16",
            bf16_full_eval=self.dtype == torch.bfloat16,
            use_cpu=args.device == "cpu",
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            remove_unused_columns=False,
        )
        self.trainer = Seq2SeqTrainer(
            args=arguments,
            model=loaded.model,
            eval_dataset=rows,
            data_collator=self.collate,
            compute_metrics=self.compute_metrics,
        )

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        labels = torch.full((len(rows), max(len(row["labels"]) for row in rows)), -100)
        for target, row in zip(labels, rows, strict=True):
            target[: len(row["labels"])] = torch.tensor(row["labels"])
        features = torch.from_numpy(np.stack([row["input_features"] for row in rows]))
        return {"input_features": features.to(self.dtype), "labels": labels}

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        tokens = np.where(prediction.predictions < 0, self.tokenizer.pad_token_id, prediction.predictions)
        self.texts = [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        return {"wer": score_texts([spoken.text for spoken in self.corpus], self.texts).wer}

    def __call__(self) -> Run:
        start = time.perf_counter(), time.process_time()
        with their_settings(cudnn_attention=self.cudnn_attention):
            metrics = self.trainer.evaluate()
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        return Run(
            name=self.name,
            on_gpu=self.trainer.model.device.type == "cuda",
            wall_seconds=wall,
            cpu_seconds=cpu,
            loss=metrics["eval_loss"],
            wer=metrics["eval_wer"],
            texts=self.texts,
        )


def summarize(runs: dict[str, list[Run]], corpus: Sequence[Spoken]) -> dict[str, Any]:
    best = {name: min(turns, key=cost) for name, turns in runs.items()}
    fastest = min((run for name, run in best.items() if name.startswith("Trainer")), key=cost)
    rivals = {"Trainer fp32": best["Trainer fp32"], "Trainer bf16": best["Trainer bf16"], "fastest": fastest}
    exact = best["Trainer fp32"].texts
    rows = {}
    print(
        f"\n{'':<24} {'wall s':>8} {'CPU s':>8} {'of fp32':>8} {'of bf16':>8} {'of best':>8} "
        f"{'WER':>7} {'same text':>10}"
    )
    for name, run in best.items():
        same = sum(one == other for one, other in zip(run.texts, exact, strict=True))
        shares = {rival: round(cost(run) / cost(other), 4) for rival, other in rivals.items()}
        rows[name] = {
            "wall_seconds": round(run.wall_seconds, 2),
            "cpu_seconds": round(run.cpu_seconds, 2),
            "share": shares,
            "share_in_each_turn": each_turn(runs[name], runs["Trainer fp32"]),
            "wer": run.wer,
            "loss": run.loss,
            "same_text_as_trainer_fp32": same,
        }
        columns = " ".join(f"{share:>8.1%}" for share in shares.values())
        print(
            f"{name:<24} {run.wall_seconds:>8.1f} {run.cpu_seconds:>8.1f} {columns} {run.wer:>7.1%} "
            f"{same:>6} of {len(corpus)}"
        )
    print(f"of ...: share of the time of that Trainer; the best is {fastest.name}\n")
    seconds = sum(map(length, corpus)) / 16000
    return {"num_utterances": len(corpus), "audio_seconds": round(seconds, 2), "fastest": fastest.name, "sides": rows}


def each_turn(ours: Sequence[Run], theirs: Sequence[Run]) -> list[float]:
    """Return the share of Trainer fp32 in each turn, to show how much it varies."""
    return [round(cost(run) / cost(other), 4) for run, other in zip(ours, theirs, strict=True)]


def cost(run: Run) -> float:
    return run.wall_seconds if run.on_gpu else run.cpu_seconds


def machine(device: str) -> dict[str, Any]:
    gpu = gpu_name(torch.device(device))
    return describe_machine("torch", "transformers", threads=torch.get_num_threads(), gpu=gpu)


if __name__ == "__main__":
    main()
