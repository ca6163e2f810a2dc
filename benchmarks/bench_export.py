"""Exports of a fine-tuned whisper-base and of a small model shaped like large-v3, each read by its own tool.

    python -m benchmarks.bench_export RUN/model DATASET --work FOLDER

For each format and model: WER by the tool, and WER here, in the tool's window and in 30 s.
The second model has 128 mel bins and 51,866 tokens, with the text tokens of the first; its weights are random, but for
an end token that comes soon. A tool that is not installed is left out and named.
"""

import argparse
import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from whisper_shard import ExportConfig, WhisperShardError, export_model
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.export.consumers import CONSUMERS
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.whisper import load_whisper

RESULTS = Path(__file__).parent / "results"
CASES = (
    ("hf", "float32"), ("ct2", "float32"), ("ct2", "int8"), ("ggml", "float16"), ("ggml", "q8_0"), ("ggml", "q5_0"),
    ("openai", "float16"), ("onnx", "float32"), ("onnx", "int8"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the fine-tuned whisper-base")
    parser.add_argument("dataset")
    parser.add_argument("--work", type=Path, required=True, help="folder for the exports, which are removed again")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="*", default=["base fine-tuned", "128 mel bins"])
    parser.add_argument("--only", nargs="*", default=[], help="formats; all by default")
    parser.add_argument(
        "--add-to", type=Path, help="result to add the rows to, for a tool in an environment of its own"
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    models = {"base fine-tuned": args.model, "128 mel bins": str(large_v3_shaped(args.work, args.model))}
    packages = ["torch", "transformers", *sorted({make.package for make in CONSUMERS.values()} - {"transformers"})]
    report: dict[str, Any] = json.loads(args.add_to.read_text()) if args.add_to else {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": describe_machine("torch", "transformers", threads=args.threads),
        "rows": [],
        "versions": {},
    }  # fmt: skip
    report["versions"] |= {package: found for package in packages if (found := find_version(package))}
    path = args.add_to or RESULTS / f"{report['date']}-export.json"
    for name in args.models:
        for kind, dtype in CASES:
            if not args.only or kind in args.only:
                keep(report, measure(name, models[name], args, kind, dtype))
                path.write_text(json.dumps(report, indent=1) + "\n")  # after each row: the whole takes an hour
    print(f"wrote {path}")


def keep(report: dict[str, Any], row: dict[str, Any]) -> None:
    """Add a row to a report, or replace that of the same export."""
    name = {"model", "format", "dtype"}
    others = [one for one in report["rows"] if any(one[key] != row[key] for key in name)]
    report["rows"] = [*others, row]


def find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@torch.no_grad()
def large_v3_shaped(work: Path, base: str) -> Path:
    """Write a random model with 128 mel bins, 51,866 tokens and the text tokens of whisper-base."""
    folder = work / "128-mels"
    shutil.rmtree(folder, ignore_errors=True)
    make_tiny_whisper(
        folder / "random", texts=["zero"], width=64, encoder_layers=1, decoder_layers=1, heads=1, n_mels=128,
        vocabulary=50_257, tokens_of=Path(base),
    )  # fmt: skip
    loaded = load_whisper(str(folder / "random"))
    decoder, end = loaded.model.model.decoder, loaded.model.generation_config.eos_token_id
    for parameter in decoder.parameters():
        parameter.mul_(1.6)
    decoder.embed_positions.weight.normal_(std=1.0, generator=torch.Generator().manual_seed(0))
    decoder.embed_tokens.weight[end] = 1.3 * decoder.embed_tokens.weight[:8].sum(dim=0)
    loaded.model.generation_config.suppress_tokens = list(range(end + 1, loaded.model.config.vocab_size))
    save_model_folder(loaded, folder / "model")
    return folder / "model"


def measure(name: str, model: str, args: argparse.Namespace, kind: str, dtype: str) -> dict[str, Any]:
    out = args.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    row: dict[str, Any] = {"model": name, "format": kind, "dtype": dtype, "tool": CONSUMERS[kind].package}
    config = ExportConfig(
        format=kind, quantize=dtype, check=(args.dataset,), samples=args.samples, tolerance=1.0, threads=args.threads
    )  # fmt: skip
    try:
        report = export_model(model, out, config)
    except WhisperShardError as error:
        row["error"] = str(error).replace(str(out), "OUT").replace(model, "MODEL")
    else:
        parity = asdict(report.parity)
        row |= {"num_bytes": report.num_bytes, **{key: parity[key] for key in parity if key != "differences"}}
        row["differing"] = sum(not one["timestamps"] for one in parity["differences"])
        row["differing_timestamps"] = sum(one["timestamps"] for one in parity["differences"])
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
