"""Score every utterance of a dataset and store the results beside it, for `filter`.

The utterances, shortest first, are cut into blocks. A process decodes its blocks one after the other and writes each as
a file; what is there already is not done again. Whoever finds that no block is missing joins them. The blocks do not
depend on the number of processes, and neither does the table.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import torch

from whisper_shard.config.checks import parse_slice
from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.columns import (
    COLUMNS_SCHEMA,
    MAX_TABLE_BYTES,
    ColumnsInfo,
    check_name,
    digest_of,
    find_columns,
    join_columns,
    parts_folder,
    table_bytes,
    table_from_bytes,
    write_columns,
)
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.errors import ConfigError, DatasetError, TrainingError
from whisper_shard.model.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.score.evaluate import BatchEvaluator, EvaluationSettings
from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.events import ScoreProgress, Window
from whisper_shard.score.normalize import TextForm
from whisper_shard.score.wer import score_texts
from whisper_shard.storage.files import list_files, read_file, write_file
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.stream.loader import open_evaluation

BLOCK_STEPS = 16
"""Batches of a block: what is lost at most when a process is killed."""
NUM_WORST = 10
"""Utterances that the report names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstUtterance:
    """One of the utterances on which model and dataset differ most."""

    key: str
    """Its name."""
    cer: float
    """Character error rate."""
    reference: str
    """What the dataset says."""
    hypothesis: str
    """What the model says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnsReport:
    """Columns that were written, or this process's part of them."""

    name: str
    """What conditions call them."""
    table: Location
    """Where the table lies, or will."""
    num_blocks: int
    """Blocks of the whole dataset."""
    num_missing: int
    """Blocks that other processes still have to write; then there is no table yet."""
    num_utterances: int = 0
    """Utterances in the table."""
    wer: float = 0.0
    """Word error rate of all of them; without any text, 0."""
    num_with_text: int = 0
    """Utterances that have a text to compare with."""
    worst: tuple[WorstUtterance, ...] = ()
    """Those with the highest character error rates, the worst first."""


def score_columns(
    model: str, dataset: Location | str, config: ScoreConfig, progress: Callable[[ScoreProgress], None]
) -> ColumnsReport:
    """Score a dataset, or this process's part of it, and store the results beside it.

    Args:
        model: Folder or hub name of the model.
        dataset: A finished dataset or a view: a local path or a URL.
        config: Settings of the command, with ``write_columns``.
        progress: Called after each batch.

    Raises:
        ModelError: The model cannot be used.
        DatasetError: The dataset cannot be read, or was changed meanwhile.
        TrainingError: The dataset is empty, or a batch does not fit into memory.
        ConfigError: A setting is not possible, or nothing can be written there.
        EnvironmentFault: The disk or the network fails.
    """
    check_name(config.write_columns, "--write-columns")
    rank, world = find_slice(config.slice)
    data = open_dataset(parse_location(dataset))
    if data.num_utterances == 0:
        raise TrainingError(f"{data.location}: the dataset is empty, there is nothing to score")
    set_threads(config.threads)
    scorer = ColumnScorer(load_whisper(model), data, config)
    if (info := find_columns(data, scorer.name)) is None or info.fingerprint != scorer.fingerprint:
        scorer.score_blocks(range(rank, scorer.num_blocks, world), progress)
        info = scorer.join()
    return scorer.report(info)


def find_slice(given: str) -> tuple[int, int]:
    """Return which part, from 0, of how many this process does.

    Args:
        given: Such as ``1/4``, from 1; empty: what torchrun set in the environment, else all.

    Raises:
        ConfigError: The environment is incomplete or wrong.
    """
    if given:
        return parse_slice("--slice", given)
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError(
            f"RANK is {rank!r} and WORLD_SIZE {world!r} in the environment; start with torchrun, or unset them"
        )
    return int(rank), int(world)


class ColumnScorer:
    """Scores blocks of a dataset.

    Args:
        loaded: The model.
        data: What is scored.
        config: Settings of the command.

    Raises:
        ConfigError: Language, task or precision are not possible.
    """

    def __init__(self, loaded: LoadedWhisper, data: Dataset, config: ScoreConfig) -> None:
        device = choose_device()
        set_up_gpu(device)
        loaded.model.to(device).eval()
        self.name = config.write_columns
        self._loaded, self._data, self._config = loaded, data, config
        self._window: Window = "short" if config.window == "short" else "full"
        self._dtype = choose_precision(config.precision, device)
        self._store = ObjectStore(data.storage)
        self._digest = digest_of(data)
        self._total = min(config.limit or data.num_utterances, data.num_utterances)
        self.num_blocks = -(-self._total // (config.eval_batch * BLOCK_STEPS))
        self.fingerprint = self._find_fingerprint()

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Settings that the values depend on."""
        config = self._config
        names = ("language", "task", "eval_batch", "max_new_tokens", "beams", "text_form", "limit")
        return {
            **{name: getattr(config, name) for name in names},
            "window": self._window,
            "precision": str(self._dtype).removeprefix("torch."),
        }

    def _find_fingerprint(self) -> str:
        known = {**self.settings, "model": self._loaded.fingerprint, "dataset": self._digest, "block": BLOCK_STEPS}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def score_blocks(self, blocks: range, progress: Callable[[ScoreProgress], None]) -> None:
        """Decode and write those of some blocks that are not there yet.

        Raises:
            DatasetError: An utterance is damaged.
            TrainingError: A batch does not fit into memory.
            EnvironmentFault: The disk or the network fails.
        """
        missing = self._missing()
        total = sum(self._size(block) for block in blocks)
        done = sum(self._size(block) for block in blocks if block not in missing)
        evaluator = self._open_evaluator() if missing else None
        for block in blocks:
            if evaluator is None or block not in missing:
                continue
            tables = []
            for table in self._score_block(evaluator, block):
                tables.append(table)
                done += len(table)
                progress(ScoreProgress(window=self._window, num_done=done, num_utterances=total))
            write_file(self._part(block), table_bytes(pa.concat_tables(tables)), self._store)

    def _open_evaluator(self) -> BatchEvaluator:
        config, loaded = self._config, self._loaded
        labeler = Labeler(loaded.tokenizer, config.language, config.task, is_multilingual=loaded.is_multilingual)
        settings = EvaluationSettings(
            window=self._window,
            max_new_tokens=config.max_new_tokens,
            num_beams=config.beams,
            dtype=self._dtype,
            with_confidence=True,
        )
        return BatchEvaluator(loaded, labeler, settings)

    def _score_block(self, evaluator: BatchEvaluator, block: int) -> Iterator[pa.Table]:
        config, steps = self._config, slice(block * BLOCK_STEPS, (block + 1) * BLOCK_STEPS)
        batches = open_evaluation(self._data, batch_size=config.eval_batch, limit=config.limit, steps=steps)
        with closing(batches), torch.inference_mode():
            for batch in batches:
                yield _as_table(evaluator.evaluate(batch).utterances, batch.ids, config.text_form)

    def join(self) -> ColumnsInfo | None:
        """Join the blocks to the table; return None where some are missing.

        Raises:
            DatasetError: The dataset was changed meanwhile, or a block is damaged.
            EnvironmentFault: The disk or the network fails.
        """
        done = find_columns(self._data, self.name)
        if done is not None and done.fingerprint == self.fingerprint:  # by another process, meanwhile
            return done
        if self._missing():
            return None
        if digest_of(self._data) != self._digest:
            raise DatasetError(f"{self._data.location}: was changed while it was scored; run the same command again")
        try:
            tables = [self._read_part(block) for block in range(self.num_blocks)]
        except FileNotFoundError:  # another process is joining them, too, and was faster
            return find_columns(self._data, self.name)
        return write_columns(
            self._data,
            self.name,
            pa.concat_tables(tables).sort_by("row"),
            model=self._loaded.path,
            fingerprint=self.fingerprint,
            settings=self.settings,
        )

    def report(self, info: ColumnsInfo | None) -> ColumnsReport:
        """Describe the columns, or what is missing of them.

        Raises:
            DatasetError: The table is damaged.
        """
        where = self._data.location.join("columns", f"{self.name}.parquet")
        if info is None:
            missing = len(self._missing())
            return ColumnsReport(name=self.name, table=where, num_blocks=self.num_blocks, num_missing=missing)
        _, table = join_columns(self._data, self.name, ["hypothesis", "cer", "num_words", "word_errors"])
        errors, words = (pc.sum(table.column(name)).as_py() or 0 for name in ("word_errors", "num_words"))
        return ColumnsReport(
            name=self.name,
            table=where,
            num_blocks=self.num_blocks,
            num_missing=0,
            num_utterances=info.num_utterances,
            wer=errors / words if words else 0.0,
            num_with_text=pc.sum(pc.greater(table.column("num_words"), 0)).as_py() or 0,
            worst=tuple(_find_worst(self._data, table)),
        )

    def _size(self, block: int) -> int:
        size = self._config.eval_batch * BLOCK_STEPS
        return min(size, self._total - block * size)

    def _part(self, block: int) -> Location:
        return parts_folder(self._data, self.name).join(f"{self.fingerprint[:16]}-{block:06d}.parquet")

    def _missing(self) -> set[int]:
        there = set(list_files(parts_folder(self._data, self.name), self._store))
        return {block for block in range(self.num_blocks) if self._part(block).name not in there}

    def _read_part(self, block: int) -> pa.Table:
        content = read_file(self._part(block), self._store, max_bytes=MAX_TABLE_BYTES)
        return table_from_bytes(content, self._part(block))


def _as_table(utterances: tuple[EvaluatedUtterance, ...], rows: tuple[int, ...], form: TextForm) -> pa.Table:
    """Return a batch as rows of the table."""
    score = score_texts(
        [row.reference for row in utterances],
        [row.hypothesis for row in utterances],
        keys=[row.key for row in utterances],
        languages=[row.language for row in utterances],
        form=form,
    )
    errors = {row.key: row for row in score.utterances}
    values = []
    for number, row in zip(rows, utterances, strict=True):
        assert row.confidence is not None
        words, chars = errors[row.key].words, errors[row.key].chars
        values.append(
            {
                "row": number,
                "key": row.key,
                "hypothesis": row.hypothesis,
                "wer": words.rate,
                "cer": chars.rate,
                "num_words": words.num_reference,
                "word_errors": words.errors,
                "avg_logprob": row.confidence.avg_logprob,
                "language_probability": row.confidence.language_probability,
                "heard_language": row.confidence.heard_language,
                "hit_cap": row.hit_cap,
            }
        )
    return pa.Table.from_pylist(values, schema=COLUMNS_SCHEMA)


def _find_worst(data: Dataset, table: pa.Table) -> Iterator[WorstUtterance]:
    """Yield the utterances with the highest character error rates."""
    known = pa.concat_tables(data.pieces("key", "text"))
    table = table.append_column("key", known.column("key")).append_column("text", known.column("text"))
    # Drops those without a score, too; those without a text differ in everything.
    table = table.filter(pc.and_(pc.greater(table.column("cer"), 0.0), pc.not_equal(table.column("text"), "")))
    order = pc.select_k_unstable(table, NUM_WORST, sort_keys=[("cer", "descending"), ("key", "ascending")])
    for row in table.take(order).to_pylist():
        yield WorstUtterance(key=row["key"], cer=row["cer"], reference=row["text"], hypothesis=row["hypothesis"])
