"""Objects in S3, Google Cloud Storage, Azure Blob Storage, and files behind https: read, write, list, remove.

An upload is all or nothing: the object appears when it is complete. A download that breaks off goes on at the byte
where it broke, of the same version of the object. Whatever a network does, a request ends: with the bytes asked for,
with an error that says what to do, or, when it brought nothing new for the retry budget, with an EnvironmentFault.
"""

import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from whisper_shard.errors import ConfigError, DatasetError, EnvironmentFault
from whisper_shard.storage.location import Location
from whisper_shard.storage.store_errors import AccessDenied, StoreFault, explain
from whisper_shard.storage.stores import StorageConfig, open_store

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_PIECE_BYTES = 1 << 20
"""Whole pieces are what is kept of a download that breaks off again."""
_STREAM_BYTES = 16 << 20
_STREAM_AHEAD = 2
_UPLOAD_PART_BYTES = 16 << 20
_UPLOAD_PARTS_AT_ONCE = 4
_UPLOAD_RETRIES = 4
_LONGEST_PAUSE_SECONDS = 8.0


class ObjectChanged(Exception):
    """An object is no longer the version that was read before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """An object, without its bytes."""

    location: Location
    """Where it lies."""
    num_bytes: int
    """Its size."""
    etag: str | None
    """Names its version; None where the server does not say."""

    @property
    def version(self) -> int:
        """A number of 60 bits that another version has not; 0 where the server does not say."""
        return int.from_bytes(hashlib.blake2b(self.etag.encode(), digest_size=8).digest()) >> 4 if self.etag else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A range of the bytes of an object."""

    data: bytes | memoryview
    """The bytes; fewer than asked for where the object ends before."""
    info: ObjectInfo
    """The object that they come from."""
    num_requests: int
    """GET requests that it took."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Access to objects, safe for many threads; opened in each process when it is first used there."""

    config: StorageConfig = field(default_factory=StorageConfig)
    """How the servers are reached."""

    def get(self, location: Location, *, max_bytes: int) -> bytes:
        """Return a whole object.

        Raises:
            FileNotFoundError: There is none.
            DatasetError: It has more than ``max_bytes``.
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        piece = self.get_up_to(location, max_bytes=max_bytes)
        if piece.info.num_bytes > max_bytes:
            raise DatasetError(
                f"{location}: has {piece.info.num_bytes} bytes, at most {max_bytes} are expected of such a file"
            )
        return bytes(piece.data)

    def get_up_to(self, location: Location, *, max_bytes: int) -> Piece:
        """Return a whole object, or none of its bytes where it has more than ``max_bytes``.

        Raises:
            FileNotFoundError: There is none.
            ObjectChanged: It was replaced while it was read.
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        return self._download(location, offset=0, num_bytes=max_bytes + 1, etag=None, is_whole=True)

    def get_range(self, location: Location, offset: int, num_bytes: int, *, etag: str | None = None) -> Piece:
        """Return ``num_bytes`` from ``offset``, fewer only where the object ends.

        Args:
            location: The object.
            offset: First byte; within the object.
            num_bytes: At least 1.
            etag: The version that it must be.

        Raises:
            FileNotFoundError: There is none.
            ObjectChanged: It is another version.
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        return self._download(location, offset=offset, num_bytes=num_bytes, etag=etag, is_whole=False)

    def stream(self, location: Location, num_bytes: int | None = None) -> Generator[bytes | memoryview, None, None]:
        """Yield an object in pieces of 16 MB, two of them fetched ahead, all of one version.

        Args:
            location: The object.
            num_bytes: The size that it must have; None is any.

        Raises:
            FileNotFoundError: There is none.
            DatasetError: It has another size, or is replaced meanwhile.
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        if num_bytes == 0:
            return
        first = self.get_range(location, 0, min(_STREAM_BYTES, num_bytes or _STREAM_BYTES))
        if num_bytes not in (None, first.info.num_bytes):
            raise DatasetError(f"{location}: has {first.info.num_bytes} bytes, must have {num_bytes}; restore it")
        starts = range(0, first.info.num_bytes, _STREAM_BYTES)
        if len(starts) == 1:
            yield first.data
            return
        with ThreadPoolExecutor(_STREAM_AHEAD) as pool:
            read = partial(self._read_piece, first.info)
            ahead = deque(pool.submit(read, start) for start in starts[1 : 1 + _STREAM_AHEAD])
            try:
                yield first.data
                for start in [*starts[1 + _STREAM_AHEAD :], *[None] * len(ahead)]:
                    data = ahead.popleft().result()
                    if start is not None:
                        ahead.append(pool.submit(read, start))
                    yield data
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def head(self, location: Location) -> ObjectInfo:
        """Return size and version of an object.

        Raises:
            FileNotFoundError: There is none.
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        try:
            return self._repeat(location, "read", lambda store: _info(location, obstore.head(store, location.key)))
        except AccessDenied:
            # The answer has no body, whatever is wrong. That of a GET tells a denied object from wrong credentials.
            self.get_up_to(location, max_bytes=0)
            raise

    def put(self, location: Location, data: bytes | Path, *, if_absent: bool = False) -> None:
        """Write an object, all or nothing, with a checksum that the server compares.

        Args:
            location: Where to; what is there is replaced in one step.
            data: The bytes, or the file that holds them.
            if_absent: Only if there is none yet; for small objects. The same bytes being there already is no fault.

        Raises:
            FileExistsError: There is another one, with ``if_absent``.
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong, or the place can only be read.
        """
        _check_writable(location)
        if if_absent:
            assert isinstance(data, bytes)
            self._create(location, data)
            return
        upload = {"chunk_size": _UPLOAD_PART_BYTES, "max_concurrency": _UPLOAD_PARTS_AT_ONCE}
        self._repeat(location, "write", lambda store: obstore.put(store, location.key, data, **upload), retries=True)
        expected = len(data) if isinstance(data, bytes) else data.stat().st_size
        if (found := self.head(location).num_bytes) != expected:
            raise EnvironmentFault(
                f"{location}: has {found} bytes after {expected} were written; does something else write there? "
                "Run the same command again"
            )

    def delete(self, location: Location) -> None:
        """Remove an object; that there is none is no fault.

        Raises:
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong, or the place can only be read.
        """
        _check_writable(location)
        try:
            self._repeat(location, "write", lambda store: obstore.delete(store, location.key))
        except FileNotFoundError:
            return

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """Yield all objects below a folder, those of inner folders too, in no order that could be relied on.

        Raises:
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong, or the place cannot be listed.
        """
        if folder.scheme == "https":
            raise ConfigError(f"{folder}: files behind https cannot be listed; name each by its whole URL")
        prefix = f"{folder.key}/" if folder.key else None
        found = self._repeat(folder, "read", lambda store: obstore.list(store, prefix).collect())
        for meta in found:
            yield _info(Location(folder.scheme, folder.bucket, meta["path"]), meta)

    def list_folders(self, folder: Location) -> Iterator[Location]:
        """Yield the folders that lie directly in a folder, sorted by name.

        Raises:
            EnvironmentFault: The retry budget is spent.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        prefix = f"{folder.key}/" if folder.key else None
        found = self._repeat(folder, "read", lambda store: obstore.list_with_delimiter(store, prefix))
        yield from (Location(folder.scheme, folder.bucket, key) for key in sorted(found["common_prefixes"]))

    def _read_piece(self, info: ObjectInfo, start: int) -> bytes | memoryview:
        """Return the piece of an object that begins at ``start``."""
        num_bytes = min(_STREAM_BYTES, info.num_bytes - start)
        try:
            piece = self.get_range(info.location, start, num_bytes, etag=info.etag)
        except ObjectChanged as error:
            raise DatasetError(f"{info.location}: was replaced while it was read; run the command again") from error
        if len(piece.data) != num_bytes:
            raise DatasetError(f"{info.location}: ends too early; restore it")
        return piece.data

    def _create(self, location: Location, data: bytes) -> None:
        try:
            self._repeat(location, "write", lambda store: obstore.put(store, location.key, data, mode="create"))
        except FileExistsError:
            # An upload whose answer was lost is repeated, and meets itself.
            if self.get(location, max_bytes=max(len(data), 1 << 20)) != data:
                raise

    def _download(self, location: Location, *, offset: int, num_bytes: int, etag: str | None, is_whole: bool) -> Piece:
        download = _Download(location=location, start=offset, end=offset + num_bytes, etag=etag, is_whole=is_whole)
        self._repeat(location, "read", download.go_on, progress=lambda: download.position)
        assert download.info is not None
        pieces = download.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Piece(data=data, info=download.info, num_requests=download.num_requests)

    def _repeat(
        self,
        location: Location,
        verb: str,
        request: Callable[[Any], _T],
        *,
        progress: Callable[[], int] = lambda: 0,
        retries: bool = False,
    ) -> _T:
        """Make a request until it succeeds, an error will not pass, or the budget is spent without progress."""
        budget = self.config.retry_budget_seconds
        since, reached, attempt = time.monotonic(), progress(), 0
        while True:
            try:
                return request(open_store(location, self.config, max_retries=_UPLOAD_RETRIES if retries else 0))
            except (BaseError, OSError, ValueError) as error:
                if isinstance(error, AlreadyExistsError):
                    raise FileExistsError(f"{location}: exists already") from error
                if isinstance(error, PreconditionError):
                    raise ObjectChanged(str(location)) from error
                fault = explain(error, location, verb=verb)
                if progress() > reached:
                    since, reached, attempt = time.monotonic(), progress(), 0
                waited = time.monotonic() - since
                if waited >= min(budget, fault.patience_seconds):
                    raise _give_up(fault, waited) from error
                if attempt == 2:
                    log.warning("%s; trying again for up to %.0f s", fault.error, budget - waited)
                # Full jitter: many readers that failed together do not come back together.
                time.sleep(min(random.uniform(0, 0.1 * 2**attempt), _LONGEST_PAUSE_SECONDS, budget - waited))
                attempt += 1


class _Download:
    """A range of an object, of which some has arrived; each GET asks for all the rest."""

    def __init__(self, *, location: Location, start: int, end: int, etag: str | None, is_whole: bool) -> None:
        self.location = location
        self.position = start
        self.pieces: list[memoryview] = []
        self.num_requests = 0
        self.info: ObjectInfo | None = None
        self._end = end
        self._etag = etag
        self._is_whole = is_whole

    def go_on(self, store: Any) -> None:
        """Ask for what is missing."""
        if self.info is not None and self.position >= min(self._end, self.info.num_bytes):
            return
        options: dict[str, Any] = {} if self._is_whole and not self.position else {"range": (self.position, self._end)}
        if self._etag is not None and not self._etag.startswith("W/"):  # a weak one never matches, by RFC 9110
            options["if_match"] = self._etag
        self.num_requests += 1
        result = obstore.get(store, self.location.key, options=options)
        info = _info(self.location, result.meta)
        if self._etag is not None and info.etag != self._etag:  # not all servers heed the condition
            raise ObjectChanged(str(self.location))
        if self.info is not None and info.num_bytes != self.info.num_bytes:
            raise ObjectChanged(str(self.location))
        self.info, self._etag = info, info.etag
        if self._is_whole and info.num_bytes >= self._end:
            return  # longer than it may be: none of it is read
        # Nearly every first request succeeds, and its bytes need no copy. Only after a failure is each piece kept.
        whole = self.num_requests == 1
        for piece in [result.bytes()] if whole else result.stream(min_chunk_size=_PIECE_BYTES):
            self.pieces.append(memoryview(piece))
            self.position += len(piece)


def _info(location: Location, meta: Any) -> ObjectInfo:
    return ObjectInfo(location=location, num_bytes=meta["size"], etag=meta["e_tag"])


def _check_writable(location: Location) -> None:
    if location.scheme == "https":
        raise ConfigError(f"{location}: what lies behind https can only be read; write to a bucket or a local path")


def _give_up(fault: StoreFault, waited: float) -> Exception:
    if fault.patience_seconds == float("inf"):
        return EnvironmentFault(f"{fault.error}; given up after {waited:.0f} s; run the same command again to resume")
    return fault.error
