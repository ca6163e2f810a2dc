"""The plan: which manifest row goes into which shard. It is made once and kept on the disk, so that every run agrees.

The rows of the manifest are brought into a random order. The first of them are the evaluation set, the others the
training set, and each set is cut into shards with equal numbers of rows. plan.json, written last, holds the settings
and the digests of the manifests that the plan was made with; a run with others is refused.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.storage.location import Location
from whisper_shard.text.tokens import digest_tokenizer

OUTPUT_VERSION = 10
"""Raise it with any change to the files of a plan or the bytes of a shard: what another version began is started over,
so that no dataset is a mixture."""
RUN_SETTINGS = (
    "jobs", "engine", "engine_address", "slice", "finish", "decode_timeout_seconds", "worker_memory_mb",
    "max_reject_fraction", "duplicates", "rebuild", "dry_run",
)  # fmt: skip
"""Settings that do not affect what is written when a shard is first prepared; all others do."""


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


def read_shard_rows(path: Path, shard: int) -> pa.Table:
    """Return the manifest rows of one shard from the file with all of them."""
    with pa.ipc.open_file(str(path)) as reader:
        return pa.Table.from_batches([reader.get_batch(shard)])


def deciding_settings(config: PrepareConfig) -> dict[str, Any]:
    """Return the settings that affect what is written, as JSON represents them."""
    settings = {name: value for name, value in asdict(config).items() if name not in RUN_SETTINGS}
    settings["eval_corpus"] = bool(config.eval_corpus)  # its path does not matter, its digest is compared
    settings["tokenizer"] = config.tokenizer and digest_tokenizer(config.tokenizer)
    as_json: dict[str, Any] = json.loads(json.dumps(settings))
    return as_json
