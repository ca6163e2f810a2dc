"""The files of recordings, on this machine or in object storage; what lies in object storage is fetched ahead.

A worker fetches the next recordings of its shard while it decodes one, each with one request, into a bounded share of
memory. Waiting for the network is no decoding: it counts towards no time limit, and a network that stays away stops the
run instead of rejecting recordings.
"""

import io
import os
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, cast

from whisper_shard.audio.files import open_recording
from whisper_shard.errors import AudioError, ConfigError, DatasetError, EnvironmentFault
from whisper_shard.storage.atomic import as_environment_fault, is_environment_error
from whisper_shard.storage.location import Location, is_url, parse_location
from whisper_shard.storage.object_store import ObjectChanged, ObjectInfo, ObjectStore, Piece
from whisper_shard.storage.range_file import BLOCK_BYTES, RangeFile
from whisper_shard.storage.store_errors import AccessDenied
from whisper_shard.utterance import ManifestRow, Rejection

State = tuple[int, int]
"""Size of a recording in bytes, and its time of modification in ns (of an object, `ObjectInfo.version`)."""
MISSING: State = (-1, 0)
"""There is none."""
LARGE_BYTES = 8 << 20
"""A recording of more bytes is not fetched ahead, nor kept in memory: it goes to a temporary file."""
FILES_AHEAD = 32
"""Recordings fetched ahead by a worker, at most ..."""
BYTES_AHEAD = 32 << 20
"""... and bytes of them."""
_THREADS = 16  # requests at the same time: at 100 ms each, enough for 160 recordings a second and worker
_TRIES = 3
Row = tuple[ManifestRow, Rejection | None]


def stat_source(path: object) -> State:
    """Return size and modification time (ns) of a local recording, or MISSING.

    Raises:
        EnvironmentFault: The machine cannot tell, for example because of a lost mount.
    """
    try:
        status = os.stat(cast(str, path))  # noqa: PTH116 - a Path would cost three times as much, ten million times
    except (PermissionError, ValueError):
        return MISSING
    except OSError as error:
        # A recording on a lost mount still exists: taking it for missing would invalidate every receipt.
        if is_environment_error(error):
            raise EnvironmentFault(
                f"{path}: cannot be examined: {error.strerror}; fix this, then run the same command again"
            ) from error
        return MISSING
    return status.st_size, status.st_mtime_ns


def stat_object(url: str, store: ObjectStore) -> State:
    """Return size and version of a recording in object storage, or MISSING.

    Raises:
        AccessDenied: It may not be read.
        EnvironmentFault: The retry budget is spent.
        ConfigError: Bucket, credentials or endpoint are wrong.
    """
    try:
        location = parse_location(url)
    except ConfigError:
        return MISSING
    try:
        info = store.head(location)
    except FileNotFoundError:
        return MISSING
    return info.num_bytes, info.version


def stat_objects(urls: Iterable[str], store: ObjectStore) -> dict[str, State | None]:
    """Return size and version of each recording in object storage; None where access is denied."""

    def stat(url: str) -> State | None:
        try:
            return stat_object(url, store)
        except AccessDenied:
            return None

    every = list(dict.fromkeys(urls))
    if not every:
        return {}
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(every, pool.map(stat, every), strict=True))


@dataclass(slots=True, kw_only=True)
class _Fetched:
    """A recording in object storage."""

    state: State = MISSING
    info: ObjectInfo | None = None
    content: bytes | memoryview | None = None
    """The bytes, where they are few."""
    is_large: bool = False
    """Whether the bytes are to go to a temporary file."""
    spooled: BinaryIO | None = None
    """That file."""
    error: AudioError | None = None
    """Why it cannot be read."""


class RecordingFiles:
    """Opens the recordings of rows, in the order of the rows."""

    def __init__(
        self, store: ObjectStore, *, pause: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        """Prepare to open.

        Args:
            store: Access to object storage.
            pause: Entered while a decoder waits for the network.
        """
        self._store, self._pause = store, pause
        self._path, self._fetched = "", _Fetched()

    def walk(
        self, rows: Iterable[Row], *, skip: Container[str]
    ) -> Iterator[tuple[ManifestRow, Rejection | None, State]]:
        """Yield rows, each with the state of its recording before it is read; until the next one, `open` opens it.

        Args:
            rows: Each with its rejection, if it has one already.
            skip: Names of recordings that will not be opened.

        Raises:
            EnvironmentFault: The machine or the network fails.
            ConfigError: Bucket, credentials or endpoint are wrong.
        """
        groups = ((path, list(group)) for path, group in groupby(rows, key=lambda pair: pair[0].path))
        ahead = deque[tuple[str, list[Row], Future[_Fetched] | None]]()
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")
        try:
            is_more = True
            while ahead or is_more:
                while is_more and _has_room(ahead):
                    if is_more := (found := next(groups, None)) is not None:
                        path, group = cast(tuple[str, list[Row]], found)
                        is_wanted = any(_is_whole(row, rejection, skip) for row, rejection in group)
                        future = pool.submit(self._fetch, path, is_wanted=is_wanted) if is_url(path) else None
                        ahead.append((path, group, future))
                if ahead:
                    path, group, future = ahead.popleft()
                    if future is not None:
                        self._begin(path, future.result())
                    for row, rejection in group:
                        state = self._fetched.state if future is not None else stat_source(path)
                        yield row, rejection, state
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            self._begin("", _Fetched())

    def open(self, path: str) -> BinaryIO:
        """Open a recording: a local one, or the one in object storage that `walk` is at.

        Raises:
            AudioError: Nothing there, empty, or not readable.
            OSError: The machine failed.
        """
        if not is_url(path):
            return open_recording(path)
        assert path == self._path
        fetched = self._fetched
        if fetched.error is not None:
            raise AudioError(str(fetched.error), reason=fetched.error.reason)
        if fetched.content is not None:
            return io.BytesIO(fetched.content)
        if fetched.spooled is not None:  # its end closes the copy of the descriptor alone
            file = os.fdopen(os.dup(fetched.spooled.fileno()), "rb")
            file.seek(0)
            return file
        assert fetched.info is not None
        return io.BufferedReader(RangeFile(fetched.info, self._store, pause=self._pause), BLOCK_BYTES)

    def _begin(self, path: str, fetched: _Fetched) -> None:
        if self._fetched.spooled is not None:
            self._fetched.spooled.close()
        self._path, self._fetched = path, fetched
        if fetched.is_large and fetched.info is not None:
            fetched.spooled = self._spool(fetched.info)

    def _fetch(self, url: str, *, is_wanted: bool) -> _Fetched:
        """Return a recording, without its bytes where they are many or not wanted."""
        try:
            location = parse_location(url)
        except ConfigError as error:
            return _Fetched(error=AudioError(f"cannot be opened: {error}", reason="missing_file"))
        try:
            piece = self._read(location) if is_wanted else None
            info = self._store.head(location) if piece is None else piece.info
        except FileNotFoundError:
            return _Fetched(error=AudioError("cannot be opened: there is no such object", reason="missing_file"))
        except AccessDenied:
            words = "access denied (or no such object, where the bucket may not be listed)"
            return _Fetched(error=AudioError(words, reason="permission_denied"))
        fetched = _Fetched(
            state=(info.num_bytes, info.version), info=info, content=None if piece is None else piece.data
        )
        if not info.num_bytes:
            fetched.error = AudioError("the file is empty", reason="empty_file")
        elif is_wanted and info.num_bytes > LARGE_BYTES:
            fetched.content, fetched.is_large = None, True
        return fetched

    def _read(self, location: Location) -> Piece:
        for _ in range(_TRIES):
            with suppress(ObjectChanged):
                return self._store.get_up_to(location, max_bytes=LARGE_BYTES)
        raise EnvironmentFault(f"{location}: is replaced again and again; wait, then run the same command again")

    def _spool(self, info: ObjectInfo) -> BinaryIO:
        file = cast(BinaryIO, tempfile.TemporaryFile(prefix="whisper-shard-"))  # noqa: SIM115 - the caller closes it
        try:
            for piece in self._store.stream(info.location, info.num_bytes):
                file.write(piece)
            file.flush()
        except (FileNotFoundError, DatasetError) as error:
            raise EnvironmentFault(
                f"{info.location}: was removed or replaced while it was read; run the same command again"
            ) from error
        except OSError as error:
            raise as_environment_fault(error, Path(tempfile.gettempdir())) from error
        return file


def _is_whole(row: ManifestRow, rejection: Rejection | None, skip: Container[str]) -> bool:
    """Return whether all bytes of the file of a row are needed; a Parquet file is read in parts."""
    return rejection is None and row.member is None and row.recording not in skip


def _has_room(ahead: Collection[tuple[str, list[Row], Future[_Fetched] | None]]) -> bool:
    """Return whether one more recording may be fetched ahead."""
    done = [
        future.result() for _, _, future in ahead if future is not None and future.done() and not future.exception()
    ]
    return len(ahead) < FILES_AHEAD and sum(len(fetched.content or b"") for fetched in done) < BYTES_AHEAD
