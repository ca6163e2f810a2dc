"""No process is left when a command that had workers returns.

joblib and multiprocessing each start a process, the resource tracker, that removes the semaphores of a program that was
killed. It ends by itself a moment after the program, and whoever waits for the command to return may still see it.
"""

import atexit
import os
import time
from functools import cache
from multiprocessing import resource_tracker, util
from typing import Any

from joblib.externals.loky.backend import resource_tracker as loky_resource_tracker

_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.005


@cache
def end_trackers_at_exit() -> None:
    """End the resource trackers when this process exits, after everything that was registered with them is removed."""
    atexit.register(_end_trackers)


def _end_trackers() -> None:
    # multiprocessing would remove its semaphores only after this, and start a tracker again in order to say so.
    util._run_finalizers()  # type: ignore[attr-defined]
    for tracker in (loky_resource_tracker._resource_tracker, resource_tracker._resource_tracker):
        _end(tracker)


def _end(tracker: Any) -> None:
    """Close the pipe to a tracker, and wait for its end as long as other processes cannot keep it alive."""
    descriptor, pid = tracker._fd, tracker._pid
    if descriptor is None or pid is None:
        return
    os.close(descriptor)
    tracker._fd = tracker._pid = None
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        time.sleep(_PAUSE_SECONDS)
