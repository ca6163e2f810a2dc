"""A folder on a local disk that keeps shards of remote datasets, shared by all processes of a machine.

Every epoch reads every shard, in another order: a cache that throws out what was used longest ago would always throw
out what is needed next. So the shards to keep are chosen once, by hash, until their sizes add up to the limit, and are
never exchanged: from the second epoch on, the share of all bytes that comes from the disk is that of the limit.

Each process with a source fetches chosen shards in the background, one after the other, and skips those that another
process is fetching; until a shard is there, it is read over the network. A shard is downloaded to ``NAME.part``, which
takes its whole length on the disk at once, so that the limit counts it. It gets its name when its sha256 is that of
dataset.json. A ``.part`` that a killed process left is taken over by the next one.
"""

import fcntl
import hashlib
import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from whisper_shard.dataset.description import DATASET_NAME, ShardInfo
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.dataset.sources.protocol import Source, SourceCounts
from whisper_shard.errors import DatasetError, EnvironmentFault, WhisperShardError
from whisper_shard.storage.atomic import as_environment_fault, sync_folder
from whisper_shard.storage.location import parse_location

log = logging.getLogger(__name__)

_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCache:
    """Where shards are kept on this machine, and how much of them."""

    folder: Path
    """On a local disk."""
    max_bytes: int
    """Limit of what the folder holds of all datasets together."""

    @property
    def root(self) -> Path:
        """The folder of its own that the cache has in ``folder``, which may be any."""
        return self.folder / "whisper-shard-cache"

    def folder_of(self, dataset: Dataset) -> Path:
        """Return where the shards of a dataset are; another version of it never meets them."""
        return self.root / dataset.index_sha256

    def count_others(self, dataset: Dataset) -> int:
        """Return the bytes that other datasets take."""
        return _count_bytes(self.root) - _count_bytes(self.folder_of(dataset))


class CacheSource:
    """Reads shards from a node cache where they are in it, else from another source."""

    def __init__(self, dataset: Dataset, origin: Source, cache: NodeCache) -> None:
        """Open the cache.

        Args:
            dataset: Whose shards are read.
            origin: Where they come from; closed with this source.
            cache: Where they are kept.

        Raises:
            EnvironmentFault: The folder cannot be made.
        """
        self.threads, self.ahead_bytes = origin.threads, origin.ahead_bytes
        self._dataset = dataset
        self._origin = origin
        self._cache = cache
        self._folder = cache.folder_of(dataset)
        try:
            (self._folder / "shards").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise as_environment_fault(error, cache.folder) from error
        self._files = LocalSource(_copies_of(dataset, self._folder))
        self._boot_time = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._chosen = choose_shards(dataset, cache.max_bytes - cache.count_others(dataset))
        self._ready: set[int] = set()
        self._closing = threading.Event()
        self._start_once = threading.Lock()
        self._filler: threading.Thread | None = None

    @property
    def counts(self) -> SourceCounts:
        """Requests and bytes that went over the network, those of the background too."""
        return self._origin.counts

    def read(self, shard: int, offset: int, num_bytes: int) -> bytes | memoryview:
        """Return exactly ``num_bytes`` from ``offset``; see `Source`."""
        self._start_filling()
        if self.is_local(shard):
            try:
                return self._files.read(shard, offset, num_bytes)
            except (DatasetError, EnvironmentFault) as error:
                self._ready.discard(shard)
                log.warning("%s; read from %s instead", error, self._dataset.location)
        return self._origin.read(shard, offset, num_bytes)

    def is_local(self, shard: int) -> bool:
        """Tell whether a shard is in the cache, whole and checked."""
        if shard in self._ready:
            return True
        if not self._is_verified(shard):
            return False
        self._ready.add(shard)
        return True

    def advise(self, shard: int, offset: int, num_bytes: int) -> None:
        """Let the operating system read a stretch ahead."""
        self._files.advise(shard, offset, num_bytes)

    def wait(self) -> None:
        """Wait until this process has nothing more to fetch; for benchmarks and tests."""
        self._start_filling()
        if self._filler is not None:
            self._filler.join()

    def close(self) -> None:
        """Stop fetching, and close all files."""
        self._closing.set()
        self._files.close()
        self._origin.close()

    def _path(self, shard: int) -> Path:
        return self._folder / self._dataset.shards[shard].cached_name

    def _is_verified(self, shard: int) -> bool:
        """Return whether a shard is there, and was checked after the machine was started.

        What a crash of the machine or its disk may have spoilt is checked again; its time of change says when it was.
        """
        try:
            status = self._path(shard).stat()
        except OSError:
            return False
        return status.st_size == self._dataset.shards[shard].num_bytes and status.st_mtime >= self._boot_time

    def _start_filling(self) -> None:
        if self._filler is None and self._chosen:
            with self._start_once:
                if self._filler is None:
                    self._filler = threading.Thread(target=self._fill, name="fill-cache", daemon=True)
                    self._filler.start()

    def _fill(self) -> None:
        """Fetch what is missing of the chosen shards; stop with one warning where that cannot go on."""
        try:
            for shard in self._chosen:
                if self._closing.is_set():
                    return
                if not self.is_local(shard):
                    self._fill_shard(shard)
        except _NoRoom as error:
            log.warning("%s; what is not yet in the cache is read from %s", error, self._dataset.location)
        except OSError as error:
            fault = as_environment_fault(error, self._cache.folder)
            log.warning("%s; what is not yet in the cache is read from %s", fault, self._dataset.location)
        except WhisperShardError as error:
            if not self._closing.is_set():
                log.warning("%s; the cache is not filled any further", error)

    def _fill_shard(self, shard: int) -> None:
        path = self._path(shard)
        part = path.with_name(f"{path.name}.part")
        with _lock_file(part) as file:
            if file is None:  # another process is fetching it
                return
            if not self._check_again(shard):
                self._reserve(file, self._dataset.shards[shard].num_bytes)
                if not self._download(shard, file):
                    return
                os.fsync(file.fileno())
                part.replace(path)
                sync_folder(path.parent)
            part.unlink(missing_ok=True)
            self._ready.add(shard)

    def _check_again(self, shard: int) -> bool:
        """Return whether the shard is there, from before the machine was started perhaps; remove one that is spoilt."""
        path = self._path(shard)
        if self._is_verified(shard):
            return True
        if not path.exists():
            return False
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == self._dataset.shards[shard].sha256:
                os.utime(path)
                return True
        path.unlink()
        return False

    def _reserve(self, file: io.FileIO, num_bytes: int) -> None:
        """Take room for a shard on the disk, all at once, so that other processes count it.

        Raises:
            _NoRoom: It would not keep within the limit.
            OSError: The disk is full.
        """
        with _folder_lock(self._cache.root):
            used = _count_bytes(self._cache.root) - os.fstat(file.fileno()).st_size
            if used + num_bytes > self._cache.max_bytes:
                os.ftruncate(file.fileno(), 0)
                limit = self._cache.max_bytes
                raise _NoRoom(f"{self._cache.root}: {used} of {limit} bytes are taken; remove what is not needed")
            try:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            except OSError:
                os.ftruncate(file.fileno(), 0)
                raise
            os.ftruncate(file.fileno(), num_bytes)

    def _download(self, shard: int, file: io.FileIO) -> bool:
        """Fetch a shard; return whether it is whole and the right one."""
        info, digest = self._dataset.shards[shard], hashlib.sha256()
        for offset in range(0, info.num_bytes, _PIECE_BYTES):
            if self._closing.is_set():
                return False
            data = self._origin.read(shard, offset, min(_PIECE_BYTES, info.num_bytes - offset))
            digest.update(data)
            os.pwrite(file.fileno(), data, offset)
        if digest.hexdigest() == info.sha256:
            return True
        os.ftruncate(file.fileno(), 0)
        log.warning(
            "%s: has sha256 %s, %s says %s; it is not cached",
            self._dataset.shard_location(shard), digest.hexdigest(), DATASET_NAME, info.sha256,
        )  # fmt: skip
        return False


class _NoRoom(Exception):
    """The cache is full."""


def choose_shards(dataset: Dataset, max_bytes: int) -> tuple[int, ...]:
    """Return the shards to keep, in an order by hash that is the same everywhere, with at most ``max_bytes``."""
    chosen, total = [], 0
    for shard in sorted(range(len(dataset.shards)), key=_rank_by_hash(dataset.index_sha256)):
        if total + dataset.shards[shard].num_bytes <= max_bytes:
            chosen.append(shard)
            total += dataset.shards[shard].num_bytes
    return tuple(chosen)


def check_room(dataset: Dataset, cache: NodeCache) -> None:
    """Check before the work begins that the disk has room for what the cache will hold.

    Where the limit is lower than it was, shards of this dataset are removed.

    Raises:
        EnvironmentFault: The disk has no room, or the folder cannot be made.
    """
    folder = cache.folder_of(dataset)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In this order: what another process fetches in between is counted twice, which does no harm.
        status, others = os.statvfs(folder), cache.count_others(dataset)
        _shrink(dataset, folder, cache.max_bytes - others)
        own = _count_bytes(folder)
    except OSError as error:
        raise as_environment_fault(error, cache.folder) from error
    free = status.f_bavail * status.f_frsize
    chosen = choose_shards(dataset, cache.max_bytes - others)
    wanted = sum(dataset.shards[shard].num_bytes for shard in chosen)
    if wanted - own > free:
        raise EnvironmentFault(
            f"{cache.folder}: no space for the cache: {wanted / 1e9:.1f} GB are wanted, {own / 1e9:.1f} GB are there, "
            f"{free / 1e9:.1f} GB are free; lower --cache-gb, or choose another folder with --cache"
        )
    if not chosen and dataset.shards:
        log.warning(
            "%s: the limit of %.1f GB leaves no room for a shard (%.1f GB are other datasets'): nothing is cached",
            cache.folder, cache.max_bytes / 1e9, others / 1e9,
        )  # fmt: skip


def _shrink(dataset: Dataset, folder: Path, max_bytes: int) -> None:
    """Remove shards, the last chosen first, until at most ``max_bytes`` are left."""
    excess = _count_bytes(folder) - max_bytes
    for shard in reversed(choose_shards(dataset, sum(info.num_bytes for info in dataset.shards))):
        path = folder / dataset.shards[shard].cached_name
        for present in (path.with_name(f"{path.name}.part"), path):
            if excess > 0:
                with suppress(FileNotFoundError):
                    excess -= present.stat().st_size
                    present.unlink()


def _rank_by_hash(seed: str) -> Callable[[int], bytes]:
    def rank(shard: int) -> bytes:
        return hashlib.sha256(f"{seed}/{shard}".encode()).digest()

    return rank


def _copies_of(dataset: Dataset, folder: Path) -> Dataset:
    """Return the dataset as it would be if all its shards were in the cache."""
    shards = tuple(
        ShardInfo(name=s.cached_name, num_bytes=s.num_bytes, sha256=s.sha256, num_utterances=s.num_utterances)
        for s in dataset.shards
    )
    return replace(dataset, location=parse_location(folder), description=replace(dataset.description, shards=shards))


def _count_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # renamed or removed meanwhile
                total += Path(root, name).stat().st_size
    return total


@contextmanager
def _lock_file(path: Path) -> Iterator[io.FileIO | None]:
    """Open a file and hold a lock on it; None where another process does. The lock goes with its holder."""
    with io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        # Its holder may have finished, and renamed it, between the two calls.
        yield file if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()) else None


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock under which room is taken."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
