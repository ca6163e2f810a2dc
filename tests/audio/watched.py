"""Decode the files of a folder and print, as JSON, what came of each and what was open meanwhile.

python -m tests.audio.watched FOLDER
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

from tests.audio.recordings import read
from whisper_shard.errors import AudioError


def watch(seen, stop):
    """Note what the descriptors of this process are, again and again."""
    while not stop.is_set():
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                seen.add(os.readlink(f"/proc/self/fd/{descriptor}"))
            except OSError:
                continue
        time.sleep(0.0002)


def main(folder):
    events = []
    sys.addaudithook(lambda name, _args: events.append(name) if name.startswith("socket.") else None)
    files = sorted(Path(folder).iterdir())
    read(files[0])  # imports everything
    seen, stop = set(), threading.Event()
    watcher = threading.Thread(target=watch, args=(seen, stop), daemon=True)
    watcher.start()
    outcomes = {}
    for path in files:
        try:
            outcomes[path.name] = len(read(path).waveform)
        except AudioError as error:
            outcomes[path.name] = error.reason
    stop.set()
    watcher.join()
    print(json.dumps({"outcomes": outcomes, "open": sorted(seen), "sockets": events}))


if __name__ == "__main__":
    main(sys.argv[1])
