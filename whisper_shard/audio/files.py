"""Open a recording on disk and decode it."""

import io
import os
import stat
from collections.abc import Sequence

from whisper_shard.audio.decoders import decode_recording
from whisper_shard.audio.recording import Decoder, Recording
from whisper_shard.errors import AudioError
from whisper_shard.storage.atomic import is_environment_error


def open_recording(path: str) -> io.FileIO:
    """Open a regular file for reading; never waits, as opening a pipe would.

    Raises:
        AudioError: Nothing there, not a regular file, empty or not readable, with a reason of its own for each.
        OSError: The machine failed (I/O error, too many open files).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (ValueError, OSError) as error:
        raise _as_audio_error(error) from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return io.FileIO(descriptor)
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise AudioError("the file is empty", reason="empty_file")
    raise AudioError(f"not a regular file but {_kind_of(status.st_mode)}", reason="not_a_file")


def read_recording(path: str, *, decoders: Sequence[Decoder], max_seconds: float) -> Recording:
    """Open and decode one file.

    Raises:
        AudioError: As `open_recording` and `decode_recording` do.
        OSError: The machine failed, not the file.
    """
    with open_recording(path) as file:
        suffix = os.path.splitext(path)[1].lower().removeprefix(".")  # noqa: PTH122 - a Path costs ten times as much
        return decode_recording(file, suffix=suffix, decoders=decoders, max_seconds=max_seconds)


def _as_audio_error(error: ValueError | OSError) -> AudioError | OSError:
    """Sort what opening a file can raise: the file's fault, or the machine's (which is handed back as it is)."""
    if isinstance(error, PermissionError):
        return AudioError("permission denied", reason="permission_denied")
    if isinstance(error, OSError) and is_environment_error(error):
        return error
    words = error.strerror if isinstance(error, OSError) else str(error)
    return AudioError(f"cannot be opened: {words}", reason="missing_file")


def _kind_of(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")
