"""The model card: README.md in the model's folder, with the front matter that the model hub reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whisper_shard.config.settings import flatten_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.report.page import render_page
from whisper_shard.score.evaluation import Evaluation
from whisper_shard.text.languages import whisper_language
from whisper_shard.train.data import Corpora
from whisper_shard.train.run.context import RunContext
from whisper_shard.train.run.folder import FREE_SETTINGS, TrainReport, library_versions
from whisper_shard.utterance import SAMPLE_RATE
from whisper_shard.version import __version__

LICENSE = "other"
"""Licence in the front matter: that of the data decides, and only the user knows it."""
LICENSE_NOTE = "fill in, after the licences of base model and data"
"""The name that the model hub shows beside it."""

_PATHS = {"model", "also_eval", "mix", "augment", "storage"}


def write_card(context: RunContext, corpora: Corpora, report: TrainReport, full: Evaluation) -> str:
    """Return the text of a model card.

    Args:
        context: Settings of the run.
        corpora: Training and evaluation data.
        report: The result.
        full: Score of the model in 30 s windows.
    """
    config = context.config
    values = {
        "title": context.folder.path.resolve().name,
        "base": _base_name(config),
        "hours": _hours(sum(data.num_samples for data in corpora.training)),
        "num_evaluated": f"{len(full.utterances):,}",
        "wer_before": f"{report.wer_before:.2%}",
        "wer": f"{report.wer:.2%}",
        "wer_low": f"{report.wer_interval[0]:.2%}",
        "wer_high": f"{report.wer_interval[1]:.2%}",
        "wer_short": f"{report.wer_short:.2%}",
        "cer": f"{report.cer:.2%}",
        "window": config.window.window,
        "borrows_silence": config.window.borrows_silence,
        "also": [
            {"name": name, "before": "" if before is None else f"{before:.2%}", "after": f"{after:.2%}"}
            for name, (before, after) in report.also.items()
        ],
        "data": [
            *(_describe(data, "training") for data in corpora.training),
            _describe(corpora.eval, "evaluation"),
            *(_describe(data, name) for name, data in corpora.also.items()),
        ],
        "steps": f"{report.steps:,}",
        "best_step": report.best_step,
        "chosen": report.chosen,
        "settings": list(_changed_settings(config)),
        "versions": {"whisper-shard": __version__, **library_versions()},
    }
    return f"{front_matter(config, report)}\n{render_page('model_card.md', **values)}"


def front_matter(config: TrainConfig, report: TrainReport) -> str:
    """Return the YAML block; values are written as JSON, which is YAML."""
    language = whisper_language(config.language or "en")
    metric = {"type": "wer", "value": round(100 * report.wer, 2), "name": "WER in 30 s windows, in percent"}
    result = {
        "task": {"type": "automatic-speech-recognition"},
        "dataset": {"name": "evaluation data", "type": "private"},
        "metrics": [metric],
    }
    fields: dict[str, Any] = {
        "language": language,
        "license": LICENSE,
        "license_name": LICENSE_NOTE,
        "base_model": _base_name(config),
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["whisper", "whisper-shard"],
        "model-index": [{"name": _base_name(config), "results": [result]}],
    }
    lines = "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())
    return f"---\n{lines}---\n"


def _base_name(config: TrainConfig) -> str:
    """Return the hub name of the base model, or the name of its folder; paths stay private."""
    return Path(config.model).resolve().name if Path(config.model).is_dir() else config.model


def _describe(data: Dataset, name: str) -> dict[str, str]:
    return {
        "name": name,
        "num_utterances": f"{data.num_utterances:,}",
        "hours": _hours(data.num_samples),
        "sha256": data.description.digest or f"index {data.index_sha256}",
    }


def _hours(num_samples: int) -> str:
    return f"{num_samples / SAMPLE_RATE / 3600:.2f} h"


def _changed_settings(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Yield settings that affect the result and are not the defaults, but for those that hold paths."""
    defaults = flatten_settings(TrainConfig(model=config.model))
    for name, value in flatten_settings(config).items():
        if value != defaults.get(name) and name not in FREE_SETTINGS | _PATHS:
            yield name, str(value)
