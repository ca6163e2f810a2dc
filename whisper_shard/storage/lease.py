"""A lease on a folder of a bucket, for one process at a time: an object that names the process and is renewed.

Unlike the lock of a local folder, nothing releases it when a machine is lost. So a lease that was not renewed for
LEASE_SECONDS counts no longer, nor does that of a process of this machine that has ended.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from whisper_shard.errors import ConfigError, EnvironmentFault, InUseError, StateError
from whisper_shard.storage.atomic import json_bytes
from whisper_shard.storage.location import Location
from whisper_shard.storage.object_store import ObjectStore

LEASE_SECONDS = 180.0
"""A lease that was not renewed for so long belongs to a process that is gone."""
_MAX_BYTES = 1 << 20
_RELEASE_SECONDS = 5.0
"""How long the release of a lease is tried; it ends by itself."""


@dataclass(slots=True, kw_only=True)
class Lease:
    """A lease that this process holds."""

    place: Location
    """The object."""
    folder: Location
    """The folder to hold, for messages."""
    name: str
    """The user's name for the folder: ``output`` or ``run``."""
    doing: str
    """What the process does in it: ``preparing`` or ``training``."""
    store: ObjectStore
    """Access to it."""
    _is_lost: bool = False
    _owner: dict[str, Any] = field(
        default_factory=lambda: {"host": socket.gethostname(), "pid": os.getpid(), "began": time.time()}
    )

    def check(self) -> None:
        """Check that no other process took the lease because this one could not renew it in time.

        Raises:
            StateError: One did.
        """
        if self._is_lost:
            raise StateError(
                f"{self.folder}: another process took over, since this one could not renew its lease within "
                f"{LEASE_SECONDS:.0f} s; wait until that one ends"
            )

    def _take(self) -> None:
        for _ in range(2):
            try:
                self.store.put(self.place, self._content(), if_absent=True)
            except FileExistsError:
                if (holder := self._read_holder()) is not None and _is_alive(holder):
                    raise InUseError(
                        f"{self.folder}: process {holder.get('pid')} of {holder.get('host')} is {self.doing} into it "
                        f"right now; wait until it ends, or choose another {self.name} folder; if that machine was "
                        f"lost, the folder is free {LEASE_SECONDS:.0f} s after its last sign of life"
                    ) from None
                self.store.delete(self.place)
            else:
                return
        raise InUseError(
            f"{self.folder}: another process has just begun {self.doing} into it; choose another {self.name} folder"
        )

    def _read_holder(self) -> dict[str, Any] | None:
        """Return what the lease says; None: there is none, or it is damaged."""
        try:
            holder = json.loads(self.store.get(self.place, max_bytes=_MAX_BYTES))
        except (FileNotFoundError, ValueError):
            return None
        return holder if isinstance(holder, dict) else None

    def _renew_until(self, ended: threading.Event) -> None:
        while not ended.wait(LEASE_SECONDS / 3):
            with suppress(EnvironmentFault, ConfigError):  # where the network fails, the next upload says so
                if not self._is_mine():
                    self._is_lost = True
                    return
                self.store.put(self.place, self._content())

    def _release(self) -> None:
        patience = min(self.store.config.retry_budget_seconds, _RELEASE_SECONDS)
        self.store = ObjectStore(replace(self.store.config, retry_budget_seconds=patience))
        with suppress(EnvironmentFault, ConfigError):
            if self._is_mine():
                self.store.delete(self.place)

    def _is_mine(self) -> bool:
        holder = self._read_holder()
        return holder is None or self._owner.items() <= holder.items()

    def _content(self) -> bytes:
        return json_bytes({**self._owner, "time": time.time()})


@contextmanager
def hold_lease(place: Location, store: ObjectStore, *, folder: Location, name: str, doing: str) -> Iterator[Lease]:
    """Hold a lease; it is renewed in a thread until the end.

    Args:
        place: The object to be.
        store: Access to it.
        folder: The folder to hold, for messages.
        name: The user's name for the folder: ``output`` or ``run``.
        doing: What the process does in it: ``preparing`` or ``training``.

    Yields:
        The lease.

    Raises:
        InUseError: Another process holds it.
        EnvironmentFault: The network fails.
        ConfigError: Bucket, credentials or endpoint are wrong, or the place can only be read.
    """
    lease = Lease(place=place, folder=folder, name=name, doing=doing, store=store)
    lease._take()
    ended = threading.Event()
    renewing = threading.Thread(target=lease._renew_until, args=(ended,), name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        lease._release()


def _is_alive(holder: dict[str, Any]) -> bool:
    try:
        is_fresh = time.time() - float(holder["time"]) < LEASE_SECONDS
    except (ValueError, KeyError, TypeError):
        return False
    is_here = holder.get("host") == socket.gethostname()
    return is_fresh and not (is_here and not Path(f"/proc/{holder.get('pid')}").exists())
