"""A receipt records that a shard is finished, what is in it, and what it was made from.

It is one JSON file, written after its shard is safely on the disk. It is valid only as long as everything the shard
was made from is unchanged: the plan, the libraries, the tar itself, and size and time of every recording (of one in
object storage, size and ETag). The index and dataset.json are functions of the receipts alone.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from whisper_shard.audio.sndfile import LIBSNDFILE_VERSION
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.schema import QUALITY_SCHEMA, TIMES_SCHEMA, IndexRow, index_table
from whisper_shard.errors import ConfigError
from whisper_shard.prepare.files import stat_objects, stat_source
from whisper_shard.prepare.plan import ShardPlan
from whisper_shard.report.quantities import describe_number
from whisper_shard.storage.location import Location, is_url, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.utterance import SAMPLE_RATE, Quality

DUPLICATE = "duplicate"
"""Reason of utterances that are dropped since another one has the same samples."""
LIMIT_REASONS = ("decoder_timeout", "decoder_out_of_memory")
"""Reasons of rejections that a higher limit might have avoided."""
_OTHER = {False: "another modification time", True: "another ETag"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOutcome:
    """The result of one manifest row; one that was cut has another one for each utterance that was rejected."""

    row: int
    """Position in the manifest."""
    source: str
    """The audio path as the manifest gives it."""
    file: str | None = None
    """The file with the audio where it is another than `source`; None: `source`."""
    num_bytes: int
    """Size of the recording's file; -1: there was none."""
    mtime_ns: int
    """Its time of modification, in nanoseconds; of an object, a number of its ETag; 0 where there was none."""
    seconds: float
    """Length of the recording before trimming; of a rejected one, as far as it is known."""
    reason: str | None
    """Why it was rejected, or None."""
    detail: str
    """The values behind the reason."""
    num_utterances: int
    """Utterances that were kept of it: 1, or of a recording that was cut any number; 0: it was rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One finished shard."""

    plan: str
    """Fingerprint of the plan it belongs to."""
    versions: Mapping[str, str]
    """Versions of the libraries that affect its bytes."""
    info: ShardInfo
    """The tar; ``num_bytes`` is 0 where no row was kept, and then there is no tar."""
    limits: Mapping[str, float]
    """Time and memory limits, where a row was rejected because of one; else empty."""
    rows: Mapping[str, Sequence[Any]]
    """Columns of RowOutcome, one value per outcome."""
    index: Mapping[str, Sequence[Any]]
    """Columns of the index, one value per utterance."""
    audio_hashes: Sequence[str]
    """Hash of the samples of each utterance; see `duplicates`."""
    dropped_hashes: Sequence[str] = ()
    """Hash of each utterance that was dropped since another one has the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCounts:
    """The sums of one finished shard."""

    num_rows: int
    """Manifest rows."""
    num_utterances: int
    """Utterances kept."""
    rejects: Counter[str]
    """Rows, or utterances of rows that were cut, that were rejected, by reason."""
    examples: Mapping[str, str]
    """For each reason, the first row in words."""
    seconds_in: float
    """Audio decoded."""
    seconds_kept: float
    """Audio kept."""


def make_receipt(
    shard: ShardPlan,
    info: ShardInfo,
    *,
    config: PrepareConfig,
    outcomes: Sequence[RowOutcome],
    index: Mapping[str, Sequence[Any]],
    audio_hashes: Sequence[str] = (),
) -> Receipt:
    """Return the receipt of a shard that is already committed.

    Args:
        shard: Its place in the plan.
        info: The tar.
        config: Settings.
        outcomes: At least one for each manifest row.
        index: Columns of the index, as `index_columns` returns them.
        audio_hashes: One for each utterance.
    """
    is_limited = any(outcome.reason in LIMIT_REASONS for outcome in outcomes)
    return Receipt(
        plan=shard.split.fingerprint,
        versions=deciding_versions(),
        info=info,
        limits=decoder_limits(config) if is_limited else {},
        rows={name: [getattr(outcome, name) for outcome in outcomes] for name in RowOutcome.__slots__},
        index=index,
        audio_hashes=tuple(audio_hashes),
    )


def index_columns(
    rows: Sequence[IndexRow],
    qualities: Iterable[Quality | None],
    times: Iterable[tuple[float | None, float | None]] = (),
) -> dict[str, list[Any]]:
    """Return the columns of the index of a shard, those of the quality only where it was measured.

    Args:
        rows: The utterances.
        qualities: Of each.
        times: Where each begins and ends in its recording; nothing: no such columns.
    """
    columns: dict[str, list[Any]] = index_table(rows).to_pydict()
    if found := list(times):
        columns |= {
            name: list(values) for name, values in zip(TIMES_SCHEMA.names, zip(*found, strict=True), strict=True)
        }
    measured = [quality for quality in qualities if quality is not None]
    if len(measured) < len(rows) or not rows:
        return columns
    return columns | {name: [getattr(quality, name) for quality in measured] for name in QUALITY_SCHEMA.names}


def write_receipt(shard: ShardPlan, receipt: Receipt) -> None:
    """Write a receipt to its place.

    Raises:
        StateError: Another process has written another one to the bucket.
        EnvironmentFault: The disk is full, failing or not writable; or the network fails.
    """
    content = {name: getattr(receipt, name) for name in Receipt.__slots__} | {"info": asdict(receipt.info)}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    shard.split.output.commit(shard.receipt, text.encode(errors="surrogatepass"))


def read_receipt(path: Path) -> Receipt | None:
    """Return a receipt, or None where there is none or it is damaged."""
    try:
        content = json.loads(path.read_bytes())
        return Receipt(**{**content, "info": ShardInfo(**content["info"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def count_receipt(receipt: Receipt, corpus: Location | Path) -> ShardCounts:
    """Return the sums over a receipt.

    Args:
        receipt: Of a finished shard.
        corpus: Folder of the manifest, to which relative audio paths are relative.
    """
    examples, base = dict[str, str](), parse_location(corpus)
    for row, source, file, reason, detail in _columns(receipt, "row", "source", "file", "reason", "detail"):
        if reason is not None and reason not in examples:
            path = base.resolve(file or source)
            examples[reason] = f"row {row}, {path if is_url(path) else Path(path).absolute()}: {detail}"
    return ShardCounts(
        num_rows=count_rows(receipt),
        num_utterances=receipt.info.num_utterances,
        rejects=count_rejects(receipt),
        examples=examples,
        seconds_in=sum(receipt.rows["seconds"]),
        seconds_kept=sum(receipt.index["num_samples"]) / SAMPLE_RATE,
    )


def count_rows(receipt: Receipt) -> int:
    """Return the number of manifest rows of a shard."""
    return len(set(receipt.rows["row"]))


def count_rejects(receipt: Receipt) -> Counter[str]:
    """Return the number of rejects for each reason."""
    return Counter(reason for reason in receipt.rows["reason"] if reason is not None)


@cache
def deciding_versions() -> Mapping[str, str]:
    """Return the versions of the libraries that affect samples; of NumPy without the patch level."""
    return {
        "libsndfile": LIBSNDFILE_VERSION,
        **{name: version(name) for name in ("av", "soundfile", "soxr")},
        "numpy": ".".join(version("numpy").split(".")[:2]),
    }


def decoder_limits(config: PrepareConfig) -> dict[str, float]:
    """Return the limits of a decoder."""
    return {
        "decode_timeout_seconds": float(config.decode_timeout_seconds),
        "worker_memory_mb": float(config.worker_memory_mb),
    }


def find_staleness(receipt: Receipt, shard: ShardPlan, config: PrepareConfig, *, tar_bytes: int) -> str | None:
    """Return why a receipt is no longer valid, or None.

    Args:
        receipt: As it was read.
        shard: Its place in the plan of this run.
        config: The settings of this run.
        tar_bytes: Size of its tar; 0 where there is none.
    """
    # From cheap to expensive: the recordings are examined last, since that takes one system call for each.
    plan, limits = shard.split.fingerprint, decoder_limits(config)
    if receipt.plan != plan:
        return f"it belongs to plan {receipt.plan[:12]}, this is plan {plan[:12]}"
    if receipt.dropped_hashes and config.duplicates == "keep":
        return f"{describe_number(len(receipt.dropped_hashes), 'duplicate')} of it had been dropped"
    if receipt.limits and dict(receipt.limits) != limits:
        changes = [f"{name} was {receipt.limits.get(name):g}, is {value:g}" for name, value in limits.items()]
        return f"it has rejects made under other limits ({', '.join(changes)})"
    if changes := _find_other_versions(receipt.versions):
        return f"it was made with other libraries ({', '.join(changes)})"
    # The size is enough here: a tar is renamed into place only when it is complete, and hashing every tar at each start
    # would take longer than preparing some of them. `whisper-shard verify` reads every byte.
    if tar_bytes != receipt.info.num_bytes:
        return f"{shard.tar.name} has {tar_bytes} bytes, the receipt says {receipt.info.num_bytes}"
    return _find_changed_recording(receipt, parse_location(shard.split.corpus), shard.split.output.store)


def _find_other_versions(then: Mapping[str, str]) -> list[str]:
    return [
        f"{name} was {then.get(name, 'absent')}, is {now}"
        for name, now in deciding_versions().items()
        if then.get(name) != now
    ]


def _find_changed_recording(receipt: Receipt, corpus: Location, store: ObjectStore) -> str | None:
    names = (file or source for file, source in _columns(receipt, "file", "source"))
    remote = (corpus.resolve(name) for name in names if not corpus.is_local or is_url(name))
    objects = stat_objects(filter(is_url, remote), store)
    for row, source, file, num_bytes, mtime_ns, reason in _columns(
        receipt, "row", "source", "file", "num_bytes", "mtime_ns", "reason"
    ):
        path = corpus.resolve(file or source)
        found = objects[path] if path in objects else stat_source(path)
        if found is None:
            if reason == "permission_denied":
                continue
            # Finished work is not thrown away because of a right that is missing now.
            raise ConfigError(f"{path}: access denied, but row {row} was read then; restore the right to read it")
        if found != (num_bytes, mtime_ns):
            what = f"{num_bytes} bytes then, {found[0]} now" if found[0] != num_bytes else _OTHER[is_url(path)]
            return f"row {row} ({source!r}) has changed: {what}"
        # Changing the mode of a file leaves its size and its time of modification as they were.
        if reason == "permission_denied" and os.access(path, os.R_OK):
            return f"row {row} ({source!r}) can be read now"
    return None


def _columns(receipt: Receipt, *names: str) -> "zip[tuple[Any, ...]]":
    return zip(*(receipt.rows[name] for name in names), strict=True)
