"""Receipts become a dataset: index.parquet, rejects.parquet, report.html, and dataset.json last.

All four are pure functions of the receipts and the plan; no clock, no random number, no folder name gets in.
"""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from whisper_shard.audio.decoders import LIBSNDFILE_VERSION
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.schema import INDEX_SCHEMA
from whisper_shard.dataset.writer import write_description, write_index
from whisper_shard.errors import StateError
from whisper_shard.prepare.events import SplitTotals, StepObserver, named_steps
from whisper_shard.prepare.plan import Plan, SplitPlan, deciding_knobs
from whisper_shard.prepare.receipts import Receipt, read_receipt
from whisper_shard.prepare.report import SHOWN_ROWS, Tally, render_report
from whisper_shard.storage.atomic import atomic_file
from whisper_shard.version import __version__

REJECTS_NAME = "rejects.parquet"
REPORT_NAME = "report.html"
REJECT_ROWS = 100_000
"""Rows of a row group of rejects.parquet, at least."""
REJECTS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)


def finish_split(
    split: SplitPlan, folder: Path, receipts: Path, *, plan: Plan, config: PrepareConfig, on_step: StepObserver
) -> SplitTotals:
    """Write all of a dataset that is not a shard.

    Args:
        split: Its plan.
        folder: The dataset's folder, with the shards.
        receipts: Folder of its receipts, all present.
        plan: The whole plan.
        config: Knobs.
        on_step: Told of commit steps.

    Raises:
        StateError: A receipt is missing or rows are unaccounted for.
        EnvironmentFault: The disk is full, failing or not writable.
    """
    tally, shards, examples = Tally(), list[ShardInfo](), list[dict[str, object]]()
    with (
        atomic_file(folder / REJECTS_NAME, on_step=named_steps("rejects", on_step)) as file,
        pq.ParquetWriter(pa.PythonFile(file, mode="w"), REJECTS_SCHEMA, compression="zstd") as rejects,
    ):
        tables = _index_tables(split, receipts, tally=tally, shards=shards, examples=examples, rejects=rejects)
        index = write_index(folder, tables, on_step=named_steps("index", on_step))
    totals = tally.totals()
    if totals.num_utterances + totals.num_rejects != split.num_rows:
        raise StateError(
            f"{folder}: {totals.num_utterances} kept + {totals.num_rejects} rejected is not {split.num_rows} rows; "
            "give --rebuild to prepare all again"
        )
    with atomic_file(folder / REPORT_NAME, on_step=named_steps("report", on_step)) as page:
        page.write(render_report(split.name, tally, examples).encode())
    files = {
        name: {"num_bytes": f.num_bytes, "sha256": f.sha256} for name, f in ((REJECTS_NAME, file), (REPORT_NAME, page))
    }
    write_description(
        folder,
        shards=shards,
        index=index,
        meta={**_describe(split, plan, config, totals), "files": files},
        on_step=named_steps("dataset", on_step),
    )
    return totals


def _index_tables(
    split: SplitPlan,
    receipts: Path,
    *,
    tally: Tally,
    shards: list[ShardInfo],
    examples: list[dict[str, object]],
    rejects: pq.ParquetWriter,
) -> Iterator[pa.Table]:
    """Go once through the receipts: yield the index, count, and write the rejects on the way."""
    waiting = list[pa.Table]()
    for shard in range(split.num_shards):
        receipt = read_receipt(receipts / f"{shard:06d}.json")
        if receipt is None:
            raise StateError(f"{receipts / f'{shard:06d}.json'}: receipt is missing; run the same command again")
        tally.add(receipt)
        table = _reject_table(receipt)
        examples += table.slice(0, SHOWN_ROWS - len(examples)).to_pylist()
        waiting.append(table)
        # Each row group costs memory until the file is closed, so there is not one for every shard.
        if sum(map(len, waiting)) >= REJECT_ROWS or shard == split.num_shards - 1:
            rejects.write_table(pa.concat_tables(waiting))
            waiting.clear()
        if receipt.info.num_bytes:
            # A shard of nothing but rejects has no tar; those after it move up in dataset.json, not in their names.
            number = [len(shards)] * receipt.info.num_utterances
            yield pa.table({**receipt.index, "shard": number}, schema=INDEX_SCHEMA)
            shards.append(receipt.info)


def _reject_table(receipt: Receipt) -> pa.Table:
    kept = [position for position, reason in enumerate(receipt.rows["reason"]) if reason is not None]
    return pa.table(
        {name: [receipt.rows[name][position] for position in kept] for name in REJECTS_SCHEMA.names},
        schema=REJECTS_SCHEMA,
    )


def _describe(split: SplitPlan, plan: Plan, config: PrepareConfig, totals: SplitTotals) -> dict[str, Any]:
    return {
        "split": split.name,
        "codec": config.codec,
        "plan": plan.fingerprint,
        "config": deciding_knobs(config),
        "source": {"num_rows": totals.num_rows, "num_rejects": totals.num_rejects, "seconds": totals.seconds_in},
        "rejects": dict(totals.rejects),
        "versions": {
            "whisper-shard": __version__,
            "libsndfile": LIBSNDFILE_VERSION,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
            **{name: version(name) for name in ("av", "librosa", "soundfile", "soxr")},
        },
    }
