"""A receipt says that a shard is done, what is in it, and what it was made of. Index and dataset.json follow from them.

A receipt is one JSON file, written after its shard is safely on the disk. It counts only while everything it was
made of is as it was: plan, libraries, tar, and the size and time of every recording.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from whisper_shard.audio.decoders import LIBSNDFILE_VERSION
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.schema import IndexRow
from whisper_shard.errors import EnvironmentFault
from whisper_shard.prepare.events import StepObserver, named_steps
from whisper_shard.storage.atomic import atomic_file, is_environment_error

LIMIT_REASONS = ("decoder_timeout", "decoder_out_of_memory")
"""Rejects that another limit might have spared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOutcome:
    """What became of one manifest row."""

    row: int
    """Position in the manifest."""
    source: str
    """The audio path as the manifest gives it."""
    num_bytes: int
    """Size of the recording's file; -1: there was none."""
    mtime_ns: int
    """Its time of modification, in nanoseconds; 0 where there was none."""
    seconds: float
    """Length of the recording before trimming where it was kept; what is known of it where not."""
    reason: str | None
    """Why it was rejected, or None."""
    detail: str
    """The values behind the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One finished shard."""

    plan: str
    """Fingerprint of the plan it belongs to."""
    versions: Mapping[str, str]
    """Of the libraries that decided its bytes."""
    info: ShardInfo
    """The tar; ``num_bytes`` 0 where no row was kept, and then there is no tar."""
    limits: Mapping[str, float]
    """Time and memory limits, where a row was rejected for one of them; else empty."""
    rows: Mapping[str, Sequence[Any]]
    """Columns of RowOutcome, one value a row."""
    index: Mapping[str, Sequence[Any]]
    """Columns of IndexRow, one value an utterance."""


@cache
def deciding_versions() -> Mapping[str, str]:
    """Return the versions of the libraries that decide samples; of NumPy without the patch level."""
    return {
        "libsndfile": LIBSNDFILE_VERSION,
        **{name: version(name) for name in ("av", "librosa", "soundfile", "soxr")},
        "numpy": ".".join(version("numpy").split(".")[:2]),
    }


def write_receipt(
    path: Path,
    *,
    plan: str,
    info: ShardInfo,
    limits: Mapping[str, float],
    outcomes: Sequence[RowOutcome],
    index_rows: Sequence[IndexRow],
    on_step: StepObserver,
) -> None:
    """Write the receipt of a shard that is already committed.

    Raises:
        EnvironmentFault: The disk is full, failing or not writable.
    """
    is_limited = any(outcome.reason in LIMIT_REASONS for outcome in outcomes)
    content = {
        "plan": plan,
        "versions": dict(deciding_versions()),
        "info": asdict(info),
        "limits": dict(limits) if is_limited else {},
        "rows": {name: [getattr(o, name) for o in outcomes] for name in RowOutcome.__slots__},
        "index": {name: [getattr(row, name) for row in index_rows] for name in IndexRow.__slots__},
    }
    with atomic_file(path, on_step=named_steps("receipt", on_step)) as file:
        file.write(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass"))


def read_receipt(path: Path) -> Receipt | None:
    """Return a receipt, or None where there is none or it cannot be understood."""
    try:
        content = json.loads(path.read_bytes())
        return Receipt(
            plan=content["plan"],
            versions=content["versions"],
            info=ShardInfo(**content["info"]),
            limits=content["limits"],
            rows=content["rows"],
            index=content["index"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe_reject(row: int, path: Path, detail: str) -> str:
    """Say which row was rejected, where its recording was looked for, and what came of it."""
    return f"row {row}, {path.absolute()}: {detail}"


def find_staleness(
    receipt: Receipt, *, plan: str, limits: Mapping[str, float], split: Path, corpus: Path
) -> str | None:
    """Return why a receipt no longer counts, or None.

    Args:
        receipt: As it was read.
        plan: Fingerprint of the plan of this run.
        limits: Time and memory limits of this run.
        split: Folder of the dataset in which its shard should lie.
        corpus: Folder against which the manifest's paths are resolved.
    """
    if receipt.plan != plan:
        return f"it belongs to plan {receipt.plan[:12]}, this is plan {plan[:12]}"
    if receipt.limits and dict(receipt.limits) != dict(limits):
        changes = [f"{name} was {receipt.limits.get(name):g}, is {value:g}" for name, value in limits.items()]
        return f"it has rejects made under other limits ({', '.join(changes)})"
    if changes := _find_other_versions(receipt.versions):
        return f"it was made with other libraries ({', '.join(changes)})"
    tar = split / receipt.info.name
    num_bytes = tar.stat().st_size if tar.is_file() else 0
    if num_bytes != receipt.info.num_bytes:
        return f"{tar.name} has {num_bytes} bytes, the receipt says {receipt.info.num_bytes}"
    return _find_changed_row(receipt, corpus)


def _find_other_versions(then: Mapping[str, str]) -> list[str]:
    return [
        f"{name} was {then.get(name, 'absent')}, is {now}"
        for name, now in deciding_versions().items()
        if then.get(name) != now
    ]


def _find_changed_row(receipt: Receipt, corpus: Path) -> str | None:
    names = ("row", "source", "num_bytes", "mtime_ns", "reason")
    for row, source, num_bytes, mtime_ns, reason in zip(*(receipt.rows[name] for name in names), strict=True):
        found = stat_source(corpus / source)
        if found != (num_bytes, mtime_ns):
            what = f"{num_bytes} bytes then, {found[0]} now" if found[0] != num_bytes else "another modification time"
            return f"row {row} ({source!r}) has changed: {what}"
        # A changed mode leaves size and time as they were.
        if reason == "permission_denied" and os.access(corpus / source, os.R_OK):
            return f"row {row} ({source!r}) can be read now"
    return None


def stat_source(path: Path | str) -> tuple[int, int]:
    """Return size and modification time (ns) of a recording, or (-1, 0) where there is none.

    Raises:
        EnvironmentFault: The machine cannot tell, as with a lost mount.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path would cost three times as much, ten million times
    except (PermissionError, ValueError):
        return -1, 0
    except OSError as error:
        if is_environment_error(error):
            raise EnvironmentFault(
                f"{path}: cannot be examined: {error.strerror}; fix this, then run the same command again"
            ) from error
        return -1, 0
    return status.st_size, status.st_mtime_ns
