"""One process at a time in a folder: a lock that goes with its holder, however that ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whisper_shard.errors import ConfigError, StateError
from whisper_shard.storage.atomic import as_environment_fault


@contextmanager
def hold_lock(lock: Path, *, folder: Path, name: str, doing: str) -> Iterator[None]:
    """Make the folder of a lock file and hold the lock.

    Args:
        lock: The file; the number of the process that holds it stands in it.
        folder: What is locked, for messages.
        name: What the user calls it: ``output`` or ``run``.
        doing: What the holder does: preparing, training.

    Raises:
        StateError: Another process has it.
        ConfigError: The folder is a file, or lies below one.
        EnvironmentFault: The folder cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+")
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{folder}: is a file, or lies below one; the {name} must be a folder") from error
    except OSError as error:
        raise as_environment_fault(error, folder) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StateError(
                f"{folder}: process {file.read().strip() or 'unknown'} is {doing} into it right now; wait until it "
                f"ends, or choose another {name} folder"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)
