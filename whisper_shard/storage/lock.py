"""A lock on a folder, for one process at a time; the kernel releases it when the process ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whisper_shard.errors import ConfigError, InUseError
from whisper_shard.storage.atomic import as_environment_fault
from whisper_shard.storage.location import Location


@contextmanager
def hold_lock(lock: Path, *, folder: Path | Location, name: str, doing: str, is_shared: bool = False) -> Iterator[None]:
    """Create the folder of a lock file, and hold the lock.

    Args:
        lock: The lock file; it contains the id of the process that holds the lock.
        folder: The folder to lock, for messages.
        name: The user's name for the folder: ``output`` or ``run``.
        doing: What the process does in it: ``preparing`` or ``training``.
        is_shared: Whether others may hold the lock too, if they share it as well.

    Raises:
        InUseError: Another process holds the lock.
        ConfigError: The folder is a file or lies below one.
        EnvironmentFault: The folder cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+")
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{folder}: is a file, or lies below one; the {name} must be a folder") from error
    except OSError as error:
        raise as_environment_fault(error, folder if isinstance(folder, Path) else lock.parent) from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InUseError(
                f"{folder}: {_name_holder(file.read())} is {doing} into it right now; wait until it "
                f"ends, or choose another {name} folder"
            ) from error
        if is_shared:
            yield
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def _name_holder(content: str) -> str:
    return f"process {content.strip()}" if content.strip() else "another process"
