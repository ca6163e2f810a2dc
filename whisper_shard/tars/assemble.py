"""Measured utterances become the index: index.parquet, rejects.parquet, and dataset.json last."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from whisper_shard.config.index import IndexConfig
from whisper_shard.dataset.description import FOREIGN_VERSION, Foreign, LinkedShard, name_from
from whisper_shard.dataset.reader import suffix_of
from whisper_shard.dataset.schema import FOREIGN_SCHEMA, QUALITY_SCHEMA, with_quality
from whisper_shard.dataset.writer import write_description, write_index
from whisper_shard.errors import StateError
from whisper_shard.prepare.assemble import REJECTS_NAME, REJECTS_SCHEMA, library_versions
from whisper_shard.storage.location import parse_location
from whisper_shard.tars.find import TarInput, TextInput
from whisper_shard.tars.measure import MEASURED_SCHEMA
from whisper_shard.tars.state import IndexFolder, deciding_settings, read_table


@dataclass(slots=True, kw_only=True)
class IndexTotals:
    """What an index holds."""

    num_rows: int = 0
    """Utterances found: kept + rejected."""
    num_utterances: int = 0
    """Utterances kept."""
    num_samples: int = 0
    """Samples kept, at 16 kHz."""
    num_bytes: int = 0
    """Bytes of the tars from which something was kept."""
    rejects: Counter[str] = field(default_factory=Counter)
    """Utterances rejected, by reason."""
    unread: Counter[str] = field(default_factory=Counter)
    """Members that are not read, by suffix."""
    suffixes: Counter[str] = field(default_factory=Counter)
    """Utterances kept, by suffix of their audio member."""
    shards: list[LinkedShard] = field(default_factory=list)
    """Tars from which something was kept."""


def assemble_index(
    output: IndexFolder, tars: Sequence[TarInput], texts: Sequence[TextInput], config: IndexConfig
) -> IndexTotals:
    """Write the files of the dataset; every tar has been read and measured.

    Raises:
        StateError: Utterances are unaccounted for.
        EnvironmentFault: The disk is full, failing or not writable.
    """
    totals = IndexTotals()
    schema = with_quality(FOREIGN_SCHEMA) if config.quality else FOREIGN_SCHEMA
    with (
        output.writer.file(output.path / REJECTS_NAME) as file,
        pq.ParquetWriter(pa.PythonFile(file, mode="w"), REJECTS_SCHEMA, compression="zstd") as rejects,
    ):
        tables = _index_tables(output, tars, schema, totals, rejects)
        index = write_index(output.path, tables, schema=schema, writer=output.writer)
    foreign = Foreign(
        texts=texts[0].kind, npy_sample_rate=config.npy_sample_rate, suffixes=dict(totals.suffixes.most_common())
    )
    meta = {
        "format_version": FOREIGN_VERSION,
        "foreign": asdict(foreign),
        "config": deciding_settings(config),
        "source": {"num_rows": totals.num_rows, "num_rejects": totals.rejects.total(), "unread": dict(totals.unread)},
        "rejects": dict(totals.rejects.most_common()),
        "versions": library_versions(),
        "files": {REJECTS_NAME: {"num_bytes": file.num_bytes, "sha256": file.sha256}},
    }
    write_description(output.path, shards=totals.shards, index=index, meta=meta, writer=output.writer)
    return totals


def _index_tables(
    output: IndexFolder,
    tars: Sequence[TarInput],
    schema: pa.Schema,
    totals: IndexTotals,
    rejects: pq.ParquetWriter,
) -> Iterator[pa.Table]:
    """Go through the tars once: yield the index, count, and write the rejects on the way."""
    for number, tar in enumerate(tars):
        found, meta = read_table(output.tar(number))
        measured = _read_measured(output, number)
        if found["row"].to_pylist() != [row - totals.num_rows for row in measured["row"].to_pylist()]:
            raise StateError(
                f"{output.path}: {len(found)} utterances of {tar.location} were found and {len(measured)} measured; "
                f"remove {output.state} and run the same command again"
            )
        name = name_from(parse_location(output.path), tar.location)
        is_kept = pc.is_null(measured["reason"])
        rejects.write_table(_reject_table(name, found, measured, pc.invert(is_kept)))
        found, kept = found.filter(is_kept), measured.filter(is_kept)
        totals.num_rows += len(measured)
        totals.rejects.update(measured["reason"].drop_null().to_pylist())
        totals.unread.update(meta["unread"])
        if len(kept):
            totals.num_utterances += len(kept)
            totals.num_samples += int(np.sum(kept["num_samples"].to_numpy(), dtype=np.int64))
            totals.num_bytes += tar.num_bytes
            totals.suffixes.update(map(suffix_of, found["name"].to_pylist()))
            yield _index_table(len(totals.shards), found, kept, schema)
            shard = LinkedShard(name=name, num_bytes=tar.num_bytes, sha256=meta["sha256"], num_utterances=len(kept))
            totals.shards.append(shard)


def _read_measured(output: IndexFolder, number: int) -> pa.Table:
    paths = sorted(output.measured(number, 0).parent.glob(f"{number:06d}-*.arrow"))
    return pa.concat_tables([MEASURED_SCHEMA.empty_table(), *(read_table(path)[0] for path in paths)])


def _index_table(shard: int, found: pa.Table, kept: pa.Table, schema: pa.Schema) -> pa.Table:
    copied: dict[str, Any] = {name: found[name] for name in found.schema.names if name in FOREIGN_SCHEMA.names}
    own = {
        "shard": pa.array(np.full(len(kept), shard, np.int32)),
        "row": pa.array(np.arange(len(kept), dtype=np.int32)),
        "num_chars": pc.utf8_length(kept["text"]),
        "source": found["name"],
    }
    copied |= {name: kept[name] for name in ("key", "text", "num_samples", "audio_start")} | own
    copied |= {name: kept[name] for name in QUALITY_SCHEMA.names}
    columns = [copied[f.name].cast(f.type) for f in schema]
    return pa.table(columns, schema=schema)


def _reject_table(name: str, found: pa.Table, measured: pa.Table, mask: pa.ChunkedArray) -> pa.Table:
    found, rejected = found.filter(mask), measured.filter(mask)
    source = pc.binary_join_element_wise(pa.scalar(name), found["name"], "/")
    columns = {"source": source, **{n: rejected[n] for n in ("row", "reason", "detail", "seconds")}}
    return pa.table([columns[n] for n in REJECTS_SCHEMA.names], schema=REJECTS_SCHEMA)
