"""Receipts become a dataset: index.parquet, rejects.parquet, report.html, and dataset.json last.

All four are functions of the receipts and the plan only: they contain no times, random numbers or folder names, so
that the same corpus always gives the same bytes.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from whisper_shard.audio.sndfile import LIBSNDFILE_VERSION
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import DATASET_NAME, INDEX_NAME, LENGTHS_NAME, ShardInfo
from whisper_shard.dataset.schema import INDEX_SCHEMA, with_quality, with_times
from whisper_shard.dataset.writer import write_description, write_index
from whisper_shard.errors import StateError
from whisper_shard.manifests.rows import as_rows
from whisper_shard.prepare.clips import RecordingClips, UtteranceClips
from whisper_shard.prepare.events import SplitTotals
from whisper_shard.prepare.plan import ShardPlan, SplitPlan, deciding_settings
from whisper_shard.prepare.receipts import Receipt, read_receipt
from whisper_shard.prepare.report import REJECT_EXAMPLES, RejectExample, Tally, render_report
from whisper_shard.version import __version__

REJECTS_NAME = "rejects.parquet"
REPORT_NAME = "report.html"
REJECT_ROWS = 100_000
"""Fewest rows of a row group of rejects.parquet."""
REJECTS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)


def assemble_dataset(split: SplitPlan, config: PrepareConfig, *, checks: Sequence[str]) -> SplitTotals:
    """Write the files of a dataset beside its shards; every shard has a valid receipt.

    Args:
        split: The dataset.
        config: Settings.
        checks: What was checked of the split, as lines.

    Raises:
        StateError: A receipt is missing, or rows are unaccounted for.
        EnvironmentFault: The disk is full, failing or not writable; or the network fails.
    """
    folder, writer = split.folder, split.output.writer
    tally, shards, examples = Tally(), list[ShardInfo](), _Examples()
    # One pass over the receipts, which together can be larger than memory, serves index, rejects and report.
    with (
        writer.file(folder / REJECTS_NAME) as file,
        pq.ParquetWriter(pa.PythonFile(file, mode="w"), REJECTS_SCHEMA, compression="zstd") as rejects,
    ):
        tables = _index_tables(
            split, schema=_schema(config), tally=tally, shards=shards, examples=examples, rejects=rejects
        )
        index = write_index(folder, tables, schema=_schema(config), writer=writer)
    totals = tally.totals()
    if totals.num_rows != split.num_rows or totals.num_utterances != tally.num_kept:
        raise StateError(
            f"{folder}: {totals.num_utterances} kept + {totals.num_rejects} rejected is not {split.num_rows} rows; "
            "give --rebuild to prepare all again"
        )
    clips = UtteranceClips(split, shards, config.codec)
    rejected = list(examples.read(split))
    with writer.file(folder / REPORT_NAME) as page:
        text = render_report(split.name, tally, rejects=rejected, checks=checks, find_clip=clips.find)
        page.write(text.encode())
    files = {
        name: {"num_bytes": f.num_bytes, "sha256": f.sha256} for name, f in ((REJECTS_NAME, file), (REPORT_NAME, page))
    }
    meta = {**_describe(split, config, totals), "files": files}
    split.output.upload(*(folder / name for name in (INDEX_NAME, LENGTHS_NAME, *files)))
    write_description(folder, shards=shards, index=index, meta=meta, writer=writer)
    split.output.upload(folder / DATASET_NAME)
    return totals


def _schema(config: PrepareConfig) -> pa.Schema:
    schema = with_quality(INDEX_SCHEMA) if config.quality else INDEX_SCHEMA
    return schema if config.segment == "none" else with_times(schema)


def _index_tables(
    split: SplitPlan,
    *,
    schema: pa.Schema,
    tally: Tally,
    shards: list[ShardInfo],
    examples: "_Examples",
    rejects: pq.ParquetWriter,
) -> Iterator[pa.Table]:
    """Read each receipt once: yield its part of the index, add it to the counts, and write its rejects."""
    waiting = list[pa.Table]()
    for shard in split.shards():
        receipt = read_receipt(shard.receipt)
        if receipt is None:
            raise StateError(f"{shard.receipt}: receipt is missing; run the same command again")
        tally.add(receipt)
        waiting.append(_reject_table(receipt))
        examples.add(shard, receipt)
        # A row group costs memory until the file is closed, so there is not one for each shard.
        if sum(map(len, waiting)) >= REJECT_ROWS or shard.number == split.num_shards - 1:
            rejects.write_table(pa.concat_tables(waiting))
            waiting.clear()
        if receipt.info.num_bytes:
            # A shard without utterances has no tar. Those after it move up in dataset.json, but keep their names.
            number = [len(shards)] * receipt.info.num_utterances
            table = pa.table({**receipt.index, "shard": number}, schema=schema)
            tally.kept.add(table)
            yield table
            shards.append(receipt.info)


class _Examples:
    """The first rejected rows of each reason."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[ShardPlan, dict[str, Any]]]] = {}

    def add(self, shard: ShardPlan, receipt: Receipt) -> None:
        """Add those of a shard."""
        for position, reason in enumerate(receipt.rows["reason"]):
            if reason is not None and len(found := self._found.setdefault(reason, [])) < REJECT_EXAMPLES:
                found.append((shard, {name: values[position] for name, values in receipt.rows.items()}))

    def read(self, split: SplitPlan) -> Iterator[RejectExample]:
        """Yield them with their lines of the manifest and the beginnings of their recordings."""
        clips = RecordingClips(split.output.store)
        for reason, found in sorted(self._found.items()):
            for shard, outcome in found:
                lines = shard.read_rows()
                ((row, _),) = as_rows(lines.filter(pc.equal(lines["row"], outcome["row"])), folder=split.corpus)
                yield RejectExample(
                    row=row,
                    reason=reason,
                    detail=outcome["detail"],
                    seconds=outcome["seconds"],
                    clip=clips.find(row) if outcome["num_bytes"] > 0 else None,
                )


def _reject_table(receipt: Receipt) -> pa.Table:
    rejected = [position for position, reason in enumerate(receipt.rows["reason"]) if reason is not None]
    return pa.table(
        {name: [receipt.rows[name][position] for position in rejected] for name in REJECTS_SCHEMA.names},
        schema=REJECTS_SCHEMA,
    )


def _describe(split: SplitPlan, config: PrepareConfig, totals: SplitTotals) -> dict[str, Any]:
    return {
        "split": split.name,
        "codec": config.codec,
        "order": "length",
        "plan": split.fingerprint,
        "config": {**deciding_settings(config), "duplicates": config.duplicates},
        "source": {"num_rows": totals.num_rows, "num_rejects": totals.num_rejects, "seconds": totals.seconds_in},
        "rejects": dict(totals.rejects),
        **({"empty_texts": config.empty_texts} if config.empty_texts != "reject" else {}),
        "versions": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that made a dataset."""
    return {
        "whisper-shard": __version__,
        "libsndfile": LIBSNDFILE_VERSION,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        **{name: version(name) for name in ("av", "soundfile", "soxr")},
    }
