"""Columns beside a dataset: what a model made of each of its utterances, in ``columns/NAME.parquet``.

``columns/NAME.json`` is written last: it has the checksum of the table, and the sha256 of the dataset.json that the
table belongs to. Where one of the two does not fit, the columns are refused.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import Meta

from whisper_shard.dataset.description import Count, FileSize, Sha256, locate_base, read_description_bytes
from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import ConfigError, DatasetError, suggest
from whisper_shard.storage.atomic import json_bytes
from whisper_shard.storage.files import list_files, read_file, remove_file, remove_files, write_file
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore

FOLDER = "columns"
"""Folder of a dataset with the columns that were written beside it."""
NAME_PATTERN = re.compile(r"[a-z_][a-z0-9_]{0,49}", re.IGNORECASE)
"""What columns can be called: a name in a condition."""
COLUMNS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("hypothesis", pa.string(), nullable=False),
        pa.field("wer", pa.float32(), nullable=False),
        pa.field("cer", pa.float32(), nullable=False),
        pa.field("num_words", pa.int32(), nullable=False),
        pa.field("word_errors", pa.int32(), nullable=False),
        pa.field("avg_logprob", pa.float32(), nullable=False),
        pa.field("language_probability", pa.float32()),
        pa.field("heard_language", pa.string()),
        pa.field("hit_cap", pa.bool_(), nullable=False),
    ]
)
"""The table: ``row`` counts over the whole dataset; the other columns are those of docs/quality.md."""
MAX_TABLE_BYTES = 1 << 34
"""Longest table that is read: 16 GB."""
_MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnsInfo:
    """Columns beside a dataset, as ``columns/NAME.json`` describes them."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,49}\Z")]
    """What conditions call them."""
    dataset_sha256: Sha256
    """Of the dataset.json of the dataset that was scored."""
    num_bytes: FileSize
    """Length of the table."""
    sha256: Sha256
    """Digest of the table."""
    num_utterances: Count
    """Rows of the table: fewer than the dataset has where only some were scored."""
    model: str
    """Folder or hub name of the model."""
    fingerprint: str
    """Digest of everything that decides the values: the weights, the dataset, the settings."""
    settings: Mapping[str, str | int]
    """Settings that the values depend on."""


def check_name(name: str, flag: str) -> None:
    """Check a name of columns.

    Raises:
        ConfigError: A condition could not name them so.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"{flag} {name!r}: use letters, digits and _, and no digit first, such as first_pass")


def digest_of(dataset: Dataset) -> str:
    """Return the sha256 of a dataset's dataset.json, to which columns are pinned."""
    return hashlib.sha256(read_description_bytes(dataset.location, ObjectStore(dataset.storage))).hexdigest()


def table_location(dataset: Dataset, name: str) -> Location:
    """Return where the table of some columns lies."""
    return dataset.location.join(FOLDER, f"{name}.parquet")


def parts_folder(dataset: Dataset, name: str) -> Location:
    """Return the folder of the parts of a table that is not finished."""
    return dataset.location.join(FOLDER, f"{name}.parts")


def write_columns(
    dataset: Dataset, name: str, table: pa.Table, *, model: str, fingerprint: str, settings: Mapping[str, str | int]
) -> ColumnsInfo:
    """Write columns beside a dataset; older ones of that name are replaced, parts of them removed.

    Args:
        dataset: What was scored.
        name: What conditions call the columns.
        table: In COLUMNS_SCHEMA, in order of row.
        model: Folder or hub name of the model.
        fingerprint: Digest of everything that decides the values.
        settings: Settings that the values depend on.

    Raises:
        EnvironmentFault: The disk or the network fails.
        ConfigError: The place can only be read.
    """
    store, content = ObjectStore(dataset.storage), table_bytes(table)
    info = ColumnsInfo(
        name=name,
        dataset_sha256=digest_of(dataset),
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        num_utterances=len(table),
        model=model,
        fingerprint=fingerprint,
        settings=settings,
    )
    description = _json_location(dataset.location, name)
    remove_file(description, store)  # until the new one is written there are no columns, rather than a mixture
    write_file(table_location(dataset, name), content, store)
    write_file(description, json_bytes(asdict(info)), store)
    remove_files(parts_folder(dataset, name), store)
    return info


def table_bytes(table: pa.Table) -> bytes:
    """Return a table, or a part of it, as Parquet with checksums of its pages."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def table_from_bytes(content: bytes, where: Location, names: Sequence[str] = ()) -> pa.Table:
    """Return a table, or a part of it; some columns only, if there are names.

    Raises:
        DatasetError: It is damaged, or no such table.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if file.schema_arrow != COLUMNS_SCHEMA:
            raise DatasetError(f"{where}: its columns are not those that `whisper-shard score` writes; score again")
        return file.read(columns=list(names) or None, use_threads=False)
    except (OSError, pa.ArrowException, ValueError) as error:
        words = " ".join(str(error).split())[:300]
        raise DatasetError(f"{where}: cannot be read ({words}); remove it and score again") from error


def find_columns(dataset: Dataset, name: str) -> ColumnsInfo | None:
    """Return the columns of a name that lie beside a dataset itself, whatever they belong to; None: there are none.

    Raises:
        DatasetError: Their description is damaged.
    """
    return _read_info(dataset.location, name, ObjectStore(dataset.storage))


def list_columns(dataset: Dataset) -> list[tuple[ColumnsInfo, bool]]:
    """Return all columns beside a dataset, and whether each belongs to it as it is now.

    Raises:
        DatasetError: A description is damaged.
    """
    if dataset.location.scheme == "https":  # which cannot be listed
        return []
    store, digest = ObjectStore(dataset.storage), digest_of(dataset)
    names = [name.removesuffix(".json") for name in list_files(dataset.location.join(FOLDER), store)]
    found = [_read_info(dataset.location, name, store) for name in names if NAME_PATTERN.fullmatch(name)]
    return [(info, info.dataset_sha256 == digest) for info in found if info is not None]


def join_columns(dataset: Dataset, name: str, names: Sequence[str]) -> tuple[ColumnsInfo, pa.Table]:
    """Return columns for each row of a dataset, null where an utterance was not scored.

    The columns lie beside the dataset or, where it is a view, beside the dataset that it was made of.

    Args:
        dataset: A dataset or a view.
        name: Of the columns.
        names: Of the columns in the table.

    Raises:
        ConfigError: There are none of that name.
        DatasetError: They belong to another dataset, or are damaged.
        EnvironmentFault: The disk or the network fails.
    """
    folder, info = _locate(dataset, name)
    store, where = ObjectStore(dataset.storage), folder.join(FOLDER, f"{name}.parquet")
    try:
        content = read_file(where, store, max_bytes=min(info.num_bytes, MAX_TABLE_BYTES))
    except FileNotFoundError as error:
        raise DatasetError(f"{where}: is missing or too long; score again with --write-columns {name}") from error
    if (found := hashlib.sha256(content).hexdigest()) != info.sha256:
        raise DatasetError(
            f"{where}: has sha256 {found}, {name}.json says {info.sha256}; score again with --write-columns {name}"
        )
    wanted = [column for column in names if column in COLUMNS_SCHEMA.names]
    table = table_from_bytes(content, where, ["key", *wanted])
    pieces = [piece.column("key") for piece in dataset.pieces("key")]
    keys = pa.chunked_array([chunk for piece in pieces for chunk in piece.chunks], pa.string())
    # By key, so that the columns of a dataset serve its views, too.
    positions = pc.index_in(keys, value_set=table.column("key").combine_chunks())
    return info, table.select(wanted).take(positions)


def _locate(dataset: Dataset, name: str) -> tuple[Location, ColumnsInfo]:
    """Return where columns lie that belong to a dataset, and their description."""
    check_name(name, "--where")
    store = ObjectStore(dataset.storage)
    base = locate_base(dataset.location, dataset.description)
    for folder in dict.fromkeys([dataset.location, base]):
        if (info := _read_info(folder, name, store)) is None:
            continue
        if info.dataset_sha256 != hashlib.sha256(read_description_bytes(folder, store)).hexdigest():
            raise DatasetError(
                f"{folder.join(FOLDER, name)}.json: was made before {folder} was changed; "
                f"score again with --write-columns {name}"
            )
        return folder, info
    known = [info.name for info, _ in list_columns(dataset)]
    hint = suggest(name, known) or f"; make them by `whisper-shard score MODEL {base} --write-columns {name}`"
    raise ConfigError(f"--where: {dataset.location} has no columns {name!r} beside it{hint}")


def _json_location(folder: Location, name: str) -> Location:
    return folder.join(FOLDER, f"{name}.json")


def _read_info(folder: Location, name: str, store: ObjectStore) -> ColumnsInfo | None:
    where = _json_location(folder, name)
    try:
        content = read_file(where, store, max_bytes=_MAX_JSON_BYTES)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(content, type=ColumnsInfo)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: cannot be parsed ({error}); score again with --write-columns {name}") from error
