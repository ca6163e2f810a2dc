"""The plan: which manifest row goes into which shard. It is made once and kept on the disk, so that every run agrees.

The rows of the manifest are brought into a random order. The first of them are the evaluation set, the others the
training set, and each set is cut into shards with equal numbers of rows. plan.json, written last, holds the settings
and the digests of the manifests that the plan was made with; a run with others is refused.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import StateError
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.remote import open_remote_manifest
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.prepare.spool import Spool, read_shard_rows, sort_into_shards
from whisper_shard.storage.atomic import as_environment_fault, sync_folder
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.text.tokens import digest_tokenizer

OUTPUT_VERSION = 9
"""Raise it with any change to the files of a plan or the bytes of a shard: what another version began is started over,
so that no dataset is a mixture."""
RUN_SETTINGS = (
    "jobs", "engine", "engine_address", "slice", "finish", "decode_timeout_seconds", "worker_memory_mb",
    "max_reject_fraction", "duplicates", "rebuild", "dry_run",
)  # fmt: skip
"""Settings that do not affect what is written when a shard is first prepared; all others do."""
MIN_SHARDS = 16
"""A corpus too small for this many full shards is still cut into this many, so that all cores have work ..."""
MIN_SHARD_ROWS = 32
"""... but not into shards of fewer rows than this."""
ROW_OVERHEAD_BYTES = 2_048
"""Bytes of a row beside its audio: two tar headers, the json member, and padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """The rows of one dataset, cut into shards."""

    name: str
    """``train`` or ``eval``."""
    output: OutputFolder
    """Where it is written."""
    fingerprint: str
    """Fingerprint of the whole plan."""
    corpus: Path | Location
    """Folder of the manifest, to which relative audio paths are relative."""
    num_rows: int
    """Manifest rows."""
    shard_rows: int
    """Rows of a shard; the last one may have fewer."""

    @property
    def num_shards(self) -> int:
        """Shards."""
        return math.ceil(self.num_rows / self.shard_rows)

    @property
    def folder(self) -> Path:
        """Folder of the dataset."""
        return self.output.dataset(self.name)

    def shards(self) -> Iterator["ShardPlan"]:
        """Yield the shards in order."""
        return (ShardPlan(split=self, number=number) for number in range(self.num_shards))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """One shard: which rows go into it, and where it is written."""

    split: SplitPlan
    """The dataset it belongs to."""
    number: int
    """Position in the dataset, from 0."""

    @property
    def num_rows(self) -> int:
        """Manifest rows."""
        return min(self.split.shard_rows, self.split.num_rows - self.number * self.split.shard_rows)

    @property
    def name(self) -> str:
        """Path of the tar, relative to the dataset."""
        return f"shards/{self.number:06d}.tar"

    @property
    def tar(self) -> Path:
        """The tar."""
        return self.split.folder / self.name

    @property
    def receipt(self) -> Path:
        """The receipt, written after the tar."""
        return self.split.output.receipts(self.split.name) / f"{self.number:06d}.json"

    def read_rows(self) -> pa.Table:
        """Return its manifest rows, in MANIFEST_SCHEMA."""
        return read_shard_rows(self.split.output.rows(self.split.name), self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides what is written."""

    splits: tuple[SplitPlan, ...]
    """``train`` first."""

    @property
    def num_rows(self) -> int:
        """Rows of all splits."""
        return sum(split.num_rows for split in self.splits)

    @property
    def num_shards(self) -> int:
        """Shards of all splits."""
        return sum(split.num_shards for split in self.splits)

    def shards(self) -> Iterator[ShardPlan]:
        """Yield the shards of all splits in order."""
        return (shard for split in self.splits for shard in split.shards())


def open_manifests(
    corpus: Location | Path | str, config: PrepareConfig, *, copies: Path, store: ObjectStore
) -> dict[str, Manifest]:
    """Return the manifests by split; without ``--eval-corpus`` there is only ``train``.

    Args:
        corpus: The manifest.
        config: Settings.
        copies: A folder of this machine for copies of manifests in object storage; it must outlive their use.
        store: Access to them.

    Raises:
        ManifestError: One of them cannot be used.
        EnvironmentFault: The network fails, or a copy cannot be written.
        ConfigError: Bucket, credentials or endpoint are wrong.
    """
    named = {"train": corpus} | ({"eval": config.eval_corpus} if config.eval_corpus else {})
    return {
        name: open_manifest(place.path, config)
        if (place := parse_location(text)).is_local
        else open_remote_manifest(place, config, copies=copies / name, store=store)
        for name, text in named.items()
    }


def choose_shard_rows(num_rows: int, mean_bytes: float, shard_mb: int) -> int:
    """Return how many rows make a shard of ``shard_mb``, or fewer if there would be less than MIN_SHARDS shards.

    Args:
        num_rows: Rows of the corpus.
        mean_bytes: Mean size of an audio member, rejected rows counting as 0.
        shard_mb: Wanted size of a shard in MB.
    """
    by_size = max(1, int(shard_mb * 1e6 / (mean_bytes + ROW_OVERHEAD_BYTES)))
    by_count = max(MIN_SHARD_ROWS, math.ceil(num_rows / MIN_SHARDS))
    return _round_down(min(by_size, by_count))


def split_ranks(spools: Mapping[str, Spool]) -> dict[str, range]:
    """Return which ranks of the random order go into each dataset.

    Args:
        spools: The manifest of each dataset; without ``eval``, that set is split off ``train``.
    """
    if "eval" in spools:
        return {name: range(spool.num_rows) for name, spool in spools.items()}
    train = spools["train"]
    num_eval = train.order.num_eval
    return {"train": range(num_eval, train.num_rows), **({"eval": range(num_eval)} if num_eval else {})}


def write_plan(output: OutputFolder, spools: Mapping[str, Spool], *, config: PrepareConfig, shard_rows: int) -> Plan:
    """Sort the manifests into shards, and write plan.json last: from now on there is a plan.

    Args:
        output: The output folder.
        spools: ``train``, and ``eval`` where it has a manifest of its own.
        config: Settings.
        shard_rows: Rows per shard.

    Raises:
        EnvironmentFault: The disk is full, failing or not writable; or the network fails.
    """
    ranks = split_ranks(spools)
    try:
        for name, found in ranks.items():
            spool = spools.get(name, spools["train"])
            sort_into_shards(spool, output.rows(name), ranks=found, shard_rows=shard_rows)
        sync_folder(output.state)
    except OSError as error:
        raise as_environment_fault(error, output.state) from error
    content = {
        "version": OUTPUT_VERSION,
        "config": deciding_settings(config),
        "manifests": {
            name: {"sha256": spool.manifest.digest(), "num_rows": spool.num_rows} for name, spool in spools.items()
        },
        "shard_rows": shard_rows,
        "splits": {name: {"num_rows": len(found)} for name, found in ranks.items()},
    }
    output.upload(*map(output.rows, ranks))
    output.writer.json(output.plan, content)
    output.upload(output.plan)
    return _as_plan(output, content, {name: spool.manifest.folder for name, spool in spools.items()})


def open_plan(output: OutputFolder, manifests: Mapping[str, Manifest], config: PrepareConfig) -> Plan | None:
    """Return the plan of an earlier run into the same folder, or None if there is none of this OUTPUT_VERSION.

    Args:
        output: The output folder.
        manifests: The manifests of this run, by split.
        config: The settings of this run.

    Raises:
        StateError: It was made with other settings (each named with both values) or from another manifest.
        ManifestError: A manifest is gone.
    """
    if not output.plan.exists():
        return None
    try:
        content = json.loads(output.plan.read_bytes())
        is_current = content.get("version") == OUTPUT_VERSION
        changes = _find_changed_settings(content["config"], deciding_settings(config), is_current=is_current)
        digests = {name: content["manifests"][name]["sha256"] for name in manifests}
        plan = _as_plan(output, content, {name: manifest.folder for name, manifest in manifests.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{output.plan}: damaged ({error!r}); give --rebuild to prepare all again") from error
    advice = "choose another output folder, or give --rebuild to prepare all again"
    if changes:
        raise StateError(f"{output.shown}: belongs to another configuration: {'; '.join(changes)}; {advice}")
    for name, manifest in manifests.items():
        if (found := manifest.digest()) != digests[name]:
            raise StateError(
                f"{output.shown}: was made from another manifest: {manifest.path} had sha256 {digests[name][:12]}, "
                f"has {found[:12]} (rows added, changed or reordered); {advice}"
            )
    return plan if is_current else None


def deciding_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return the settings that affect what is written, as JSON represents them."""
    settings = {name: value for name, value in asdict(config).items() if name not in RUN_SETTINGS}
    settings["eval_corpus"] = bool(config.eval_corpus)  # its path does not matter, its digest is compared
    settings["tokenizer"] = config.tokenizer and digest_tokenizer(config.tokenizer)
    as_json: dict[str, Any] = json.loads(json.dumps(settings))
    return as_json


def _find_changed_settings(then: Mapping[str, Any], now: Mapping[str, Any], *, is_current: bool) -> list[str]:
    # An output of another version may lack settings that did not exist then, and is prepared again anyway.
    names = then.keys() | now.keys() if is_current else then.keys() & now.keys()
    return [
        f"{name} was {_show(then.get(name))}, is {_show(now.get(name))}"
        for name in sorted(names)
        if then.get(name) != now.get(name)
    ]


def _as_plan(output: OutputFolder, content: Mapping[str, Any], corpora: Mapping[str, Path | Location]) -> Plan:
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    num_rows = {name: split["num_rows"] for name, split in content["splits"].items()}
    splits = tuple(
        SplitPlan(
            name=name,
            output=output,
            fingerprint=fingerprint,
            corpus=corpora.get(name, corpora["train"]),
            num_rows=num_rows[name],
            shard_rows=content["shard_rows"],
        )
        for name in sorted(num_rows, reverse=True)
    )
    return Plan(splits=splits)


def _round_down(count: int) -> int:
    """Keep two significant digits, so that the number is easy to remember."""
    unit: int = 10 ** max(len(str(count)) - 2, 0)
    return count // unit * unit


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
