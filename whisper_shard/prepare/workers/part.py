"""A part of the shards, prepared on another machine by a process of its own.

`run_part` is called by a worker of a cluster. It starts this module as a program, gives it the tasks, and waits for its
answer. The program ends with its parent: it watches its standard input, which closes when the parent is gone, however
it ends.
"""

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from whisper_shard.errors import EnvironmentFault, WhisperShardError
from whisper_shard.prepare.events import Note
from whisper_shard.prepare.output import OutputFolder, fetch_plan, open_output
from whisper_shard.prepare.plan import ShardPlan
from whisper_shard.prepare.shard import ShardResult, write_shard
from whisper_shard.prepare.task import ShardTask
from whisper_shard.prepare.workers.pool import open_workers
from whisper_shard.prepare.workers.supervisor import Tick, supervise

_LENGTH_BYTES = 8


def run_part(tasks: Sequence[ShardTask]) -> list[ShardResult | Note]:
    """Prepare shards in a new process of this machine, and return what it reports.

    Raises:
        WhisperShardError: The process met one.
        EnvironmentFault: The process ended without an answer.
    """
    # The cluster may have given this process another path than a new one would have.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "whisper_shard.prepare.workers.part"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        content = pickle.dumps(list(tasks))
        with suppress(BrokenPipeError):  # it has ended already, and its status is the answer
            process.stdin.write(len(content).to_bytes(_LENGTH_BYTES, "big") + content)
            process.stdin.flush()
        answer = process.stdout.read()
    if not answer:
        raise EnvironmentFault(
            f"{socket.gethostname()}: a process that prepared shards ended with status {process.returncode}; "
            "is the machine out of memory?"
        )
    result: list[ShardResult | Note] | WhisperShardError = pickle.loads(answer)
    if isinstance(result, WhisperShardError):
        raise result
    return result


def prepare_part(tasks: Sequence[ShardTask], node: Path) -> list[ShardResult | Note]:
    """Prepare shards in this process and one worker.

    Args:
        tasks: At least one.
        node: Empty folder of this machine.

    Raises:
        WhisperShardError: As `supervise`; also where this machine does not see the folders of the task.
    """
    output = _find_output(tasks[0], node)
    found = list[ShardResult | Note]()
    moved = [replace(task, shard=_move(task, output)) for task in tasks]
    for name in {task.shard.split.name for task in moved}:
        (output.dataset(name) / "shards").mkdir(parents=True, exist_ok=True)
        output.receipts(name).mkdir(parents=True, exist_ok=True)
    config = replace(tasks[0].config, jobs=1)
    with open_workers(output, config) as workers:
        for outcome in supervise(workers, write_shard, moved, config):
            if not isinstance(outcome, Tick):
                found.append(outcome)
    return found


def _find_output(task: ShardTask, node: Path) -> OutputFolder:
    """Return the output as this machine sees it, with heartbeats in a folder of its own.

    Raises:
        EnvironmentFault: The output or the corpus is not there.
    """
    named = task.shard.split.output
    if named.remote:
        output = open_output(named.remote.location, writer=named.writer, store=named.store, node=node)
        fetch_plan(output)
    else:
        output = replace(named, node=node)
    seen = {"OUT": output.plan.exists(), "the corpus": not isinstance(task.corpus, Path) or task.corpus.exists()}
    for name, is_there in seen.items():
        if not is_there:
            folder = named.shown if name == "OUT" else task.corpus
            raise EnvironmentFault(
                f"{folder}: {socket.gethostname()} does not see {name} there; all machines must share the folder"
            )
    return output


def _move(task: ShardTask, output: OutputFolder) -> ShardPlan:
    return replace(task.shard, split=replace(task.shard.split, output=output))


def _end_with_parent(stdin: BinaryIO) -> None:
    stdin.read()
    os._exit(1)


def main() -> None:
    """Read tasks from standard input, and write the answer to standard output."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not disturb the answer
    size = int.from_bytes(sys.stdin.buffer.read(_LENGTH_BYTES), "big")
    tasks = pickle.loads(sys.stdin.buffer.read(size))
    threading.Thread(target=_end_with_parent, args=(sys.stdin.buffer,), daemon=True).start()
    try:
        with TemporaryDirectory(prefix="whisper-shard-") as folder:
            answer: list[ShardResult | Note] | WhisperShardError = prepare_part(tasks, Path(folder))
    except WhisperShardError as error:
        answer = error
    with os.fdopen(answer_to, "wb") as file:
        file.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
