"""Hypotheses from elsewhere: a file of another system, or the folder of an earlier score. Needs no model and no torch.

A file has a row for each utterance: its key in the dataset, or the path of its recording as the manifest gave it, and
the text that was recognized. What has no hypothesis counts as not recognized, word by word; what the dataset does not
have is left out. Both are named and counted.
"""

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import DatasetError, ManifestError
from whisper_shard.report.quantities import describe_number
from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.utterance import SAMPLE_RATE

KEY_COLUMNS = ("key", "utterance_id", "utt_id", "id")
"""Columns that may hold the key of an utterance, the first that is there."""
SOURCE_COLUMNS = ("source", "audio_filepath", "audios", "audio", "path", "file")
"""Without a key: columns that may hold the path of the recording, as the manifest gave it."""
TEXT_COLUMNS = ("hypothesis", "pred_text", "prediction", "text", "transcript", "transcription")
"""Columns that may hold the hypothesis, the first that is there."""
NUM_NAMED = 3
"""Utterances that a message names."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenHypotheses:
    """What a file says."""

    path: Path
    """The file."""
    texts: Mapping[str, str]
    """Hypotheses by key, or by the path of the recording."""
    capped: Collection[str]
    """Those that the file calls cut off, in a column ``hit_cap``."""
    name_column: str
    """Where the names come from."""
    text_column: str
    """Where the texts come from."""
    window: str = ""
    """The kind of window of the rows that were taken, where the file has several."""

    @property
    def is_by_source(self) -> bool:
        """Whether the names are paths of recordings."""
        return self.name_column in SOURCE_COLUMNS

    def describe(self) -> str:
        """Return which columns were taken."""
        window = f", rows of window {self.window!r}" if self.window else ""
        return f"{describe_number(len(self.texts), 'text')} of column {self.text_column} by {self.name_column}{window}"


def read_hypotheses(path: Path) -> GivenHypotheses:
    """Read a CSV, TSV, JSON lines or Parquet file, which its suffix tells.

    Raises:
        ManifestError: It cannot be read, or has no such columns, no row, or two rows with one name.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(f"{path}: hypotheses come as {', '.join(READERS)}; it is none of these by its name")
    try:
        rows = list(reader(path))
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        words = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ManifestError(f"{path}: cannot be read: {words}") from error
    if not rows:
        raise ManifestError(f"{path}: has no row")
    return _collect(path, rows)


def _collect(path: Path, rows: Sequence[tuple[int, Row]]) -> GivenHypotheses:
    names = list(rows[0][1])
    name_column = _choose(path, names, (*KEY_COLUMNS, *SOURCE_COLUMNS), "the key of an utterance")
    text_column = _choose(path, names, TEXT_COLUMNS, "its hypothesis")
    windows = list(dict.fromkeys(str(row.get("window") or "") for _, row in rows))
    found: dict[str, tuple[int, str]] = {}
    capped = set()
    for number, row in rows:
        if str(row.get("window") or "") != windows[0]:
            continue
        name, text = row.get(name_column), row.get(text_column)
        if name is None or str(name).strip() == "":
            raise ManifestError(f"{path}: row {number} has nothing in column {name_column}")
        key = str(name).strip()
        if key in found:
            raise ManifestError(f"{path}: {name_column} {key!r} is there twice, in rows {found[key][0]} and {number}")
        found[key] = number, "" if text is None else str(text)
        if row.get("hit_cap") is True:
            capped.add(key)
    return GivenHypotheses(
        path=path,
        texts={key: text for key, (_, text) in found.items()},
        capped=capped,
        name_column=name_column,
        text_column=text_column,
        window=windows[0] if len(windows) > 1 else "",
    )


def _choose(path: Path, names: Sequence[str], known: Sequence[str], meaning: str) -> str:
    for name in known:
        if name in names:
            return name
    raise ManifestError(f"{path}: no column holds {meaning}: it has {', '.join(names)}; name one of them {known[0]}")


def _read_csv(path: Path, *, delimiter: str = ",", is_quoted: bool = True) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if is_quoted:
            lines = csv.reader(file, delimiter=delimiter, strict=True)
        else:
            lines = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        header = next(lines, [])
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            if len(line) != len(header):
                raise ManifestError(
                    f"{path}: row {number} has {len(line)} fields, the header {len(header)}: {line[:3]}"
                )
            yield number, dict(zip(header, line, strict=True))


def _read_tsv(path: Path) -> Iterator[tuple[int, Row]]:
    yield from _read_csv(path, delimiter="\t", is_quoted=False)


def _read_json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ManifestError(f"{path}: line {number} is not JSON: {error}") from error
            if not isinstance(value, dict):
                raise ManifestError(f"{path}: line {number} is no object but {line.strip()[:40]!r}")
            yield number, value


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    known = {*KEY_COLUMNS, *SOURCE_COLUMNS, *TEXT_COLUMNS, "hit_cap", "window"}
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name in known]
        if not names:
            raise ManifestError(f"{path}: none of its columns is known: {', '.join(file.schema_arrow.names)}")
        yield from enumerate(file.read(columns=names).to_pylist(), start=1)


READERS: Mapping[str, Callable[[Path], Iterable[tuple[int, Row]]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}
"""How hypotheses are read, by the suffix of their file; rows are counted from 1."""


def match_hypotheses(
    given: GivenHypotheses, data: Dataset, *, language: str = "en"
) -> tuple[tuple[EvaluatedUtterance, ...], tuple[str, ...]]:
    """Return the utterances of a dataset with given hypotheses, and lines about what does not match.

    Args:
        given: What the file says.
        data: The dataset.
        language: BCP-47 tag where the dataset has none.

    Raises:
        ManifestError: No hypothesis is for an utterance of the dataset, or several utterances are of one recording.
    """
    table = pa.concat_tables(data.pieces("key", "text", "language", "num_samples", "source"))
    rows = table.to_pylist()
    names = [row["source" if given.is_by_source else "key"] for row in rows]
    if given.is_by_source and len(set(names)) < len(names):
        raise ManifestError(
            f"{given.path}: names recordings ({given.name_column}), but several utterances of {data.location} are of "
            "one recording; give the hypotheses a column key"
        )
    missing = [name for name in names if name not in given.texts]
    if len(missing) == len(names):
        raise ManifestError(
            f"{given.path}: none of its {describe_number(len(given.texts), 'hypothesis')} is for an utterance of "
            f"{data.location}: it has {given.name_column} {next(iter(given.texts))!r}, the dataset {names[0]!r}"
        )
    utterances = tuple(
        EvaluatedUtterance(
            key=row["key"],
            reference=row["text"],
            hypothesis=given.texts.get(name, ""),
            language=row["language"] or language,
            hit_cap=name in given.capped,
            seconds=row["num_samples"] / SAMPLE_RATE,
        )
        for name, row in zip(names, rows, strict=True)
    )
    return utterances, tuple(_describe_mismatch(given, data, missing, sorted(set(given.texts) - set(names))))


def _describe_mismatch(
    given: GivenHypotheses, data: Dataset, missing: Sequence[str], unknown: Sequence[str]
) -> Iterator[str]:
    if missing:
        yield (
            f"{given.path}: {len(missing):,} of {data.num_utterances:,} utterances have no hypothesis "
            f"({name_some(missing)}): all their words count as left out"
        )
    if unknown:
        yield (
            f"{given.path}: {len(unknown):,} of {len(given.texts):,} hypotheses are for utterances that "
            f"{data.location} does not have ({name_some(unknown)}): they are left out"
        )


def name_some(names: Sequence[str]) -> str:
    """Return the first few names."""
    return ", ".join(names[:NUM_NAMED]) + (", ..." if len(names) > NUM_NAMED else "")


def check_same_data(name: str, theirs: Collection[EvaluatedUtterance], data: Dataset) -> None:
    """Check that utterances that were scored earlier are those of a dataset.

    Raises:
        DatasetError: One is not there, or has another text; names both.
    """
    table = pa.concat_tables(data.pieces("key", "text"))
    texts = dict(zip(table["key"].to_pylist(), table["text"].to_pylist(), strict=True))
    foreign = sorted(row.key for row in theirs if row.key not in texts)
    changed = sorted(row.key for row in theirs if row.key in texts and texts[row.key] != row.reference)
    for keys, words in ((foreign, "are not in"), (changed, "have another text in")):
        if keys:
            raise DatasetError(
                f"{name}: was scored on other data: {len(keys):,} of its {len(theirs):,} utterances {words} "
                f"{data.location} ({name_some(keys)}); score both on the same data"
            )
