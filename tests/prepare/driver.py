"""Run `prepare_corpus` in a process of its own, which tests may kill.

Usage: python -m tests.prepare.driver CORPUS OUT SETTINGS_AS_JSON [STEP]
"""

import json
import os
import sys
from pathlib import Path

from tests.prepare.hostile import KillAt
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import WhisperShardError
from whisper_shard.prepare.run import prepare_corpus
from whisper_shard.storage.atomic import WRITER


def main(corpus, out, settings, step=None):
    writer = KillAt(step=step, pid=os.getpid()) if step else WRITER
    try:
        for event in prepare_corpus(Path(corpus), out, PrepareConfig(**json.loads(settings)), writer=writer):
            print(event, flush=True)
    except WhisperShardError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
