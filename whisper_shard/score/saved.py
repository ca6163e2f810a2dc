"""An earlier score, read from its folder: score.json and score.parquet."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whisper_shard.errors import DatasetError
from whisper_shard.score.evaluation import EvaluatedUtterance, Evaluation, summarize_utterances
from whisper_shard.score.events import WINDOW_NAMES, Window
from whisper_shard.score.normalize import TextForm
from whisper_shard.score.table import TABLE_NAME, TABLE_SCHEMA
from whisper_shard.utterance import Phrase

REPORT_NAME = "score.json"
"""Name of the report in the folder of a score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedScore:
    """What a folder holds."""

    folder: Path
    """Where it lies."""
    model: str
    """What was scored."""
    settings: Mapping[str, str]
    """What the values depend on, by name."""
    utterances: Mapping[Window, tuple[EvaluatedUtterance, ...]]
    """With their hypotheses, by kind of window, the first of the report first."""
    losses: Mapping[Window, float]
    """Mean loss of a token; NaN: not known."""
    seconds: Mapping[Window, float]
    """Wall time; NaN: not known."""

    def evaluate(self, form: TextForm) -> list[Evaluation]:
        """Score the hypotheses again in one form of the text."""
        return [
            summarize_utterances(rows, window=window, form=form, loss=self.losses[window], seconds=self.seconds[window])
            for window, rows in self.utterances.items()
        ]


def is_score_folder(path: Path) -> bool:
    """Return whether a folder is that of a score."""
    return (path / REPORT_NAME).is_file()


def read_score(folder: Path) -> SavedScore:
    """Read the folder of a score.

    Raises:
        DatasetError: It is damaged, or was written before scores had a table.
    """
    try:
        report = json.loads((folder / REPORT_NAME).read_bytes())
        table = pq.read_table(folder / TABLE_NAME)
        if table.schema != TABLE_SCHEMA:
            raise ValueError(f"{TABLE_NAME} has other columns")
        rows: dict[Window, list[EvaluatedUtterance]] = {}
        for row in table.to_pylist():
            if row["window"] not in WINDOW_NAMES:
                raise ValueError(f"{TABLE_NAME} has a window {row['window']!r}")
            values = {name: row[name] for name in ("key", "reference", "hypothesis", "language", "hit_cap", "seconds")}
            phrases = None if row["phrases"] is None else _read_phrases(row["phrases"])
            said = _read_phrases(row["reference_phrases"] or [])
            utterance = EvaluatedUtterance(**values, phrases=phrases, reference_phrases=said)
            rows.setdefault(row["window"], []).append(utterance)
        if not rows:
            raise ValueError(f"{TABLE_NAME} is empty")
        windows = report["windows"]
        return SavedScore(
            folder=folder,
            model=str(report["model"]),
            settings={str(name): str(value) for name, value in report["settings"].items()},
            utterances={window: tuple(some) for window, some in rows.items()},
            losses={window: _number(windows[window]["loss"]) for window in rows},
            seconds={window: _number(windows[window]["seconds"]) for window in rows},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        words = getattr(error, "strerror", None) or " ".join(repr(error).split())[:200]
        raise DatasetError(f"{folder}: no score can be read there ({words}); score again") from error


def _read_phrases(values: Sequence[Mapping[str, Any]]) -> tuple[Phrase, ...]:
    return tuple(Phrase(**value) for value in values)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
