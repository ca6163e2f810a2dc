"""The subcommands, one file each: the function that runs it, and the lines that it prints.

To add a command, write a module with a COMMAND and name it in COMMANDS.
"""

from whisper_shard.cli.command import Command
from whisper_shard.cli.commands import (
    bench,
    compare,
    demo,
    doctor,
    export,
    filter,
    index,
    inspect,
    prepare,
    score,
    train,
    transcribe,
    verify,
)

COMMANDS: dict[str, Command] = {
    "prepare": prepare.COMMAND,
    "index": index.COMMAND,
    "filter": filter.COMMAND,
    "verify": verify.COMMAND,
    "inspect": inspect.COMMAND,
    "bench": bench.COMMAND,
    "train": train.COMMAND,
    "compare": compare.COMMAND,
    "score": score.COMMAND,
    "transcribe": transcribe.COMMAND,
    "export": export.COMMAND,
    "demo": demo.COMMAND,
    "doctor": doctor.COMMAND,
}
"""By name, in the order in which `--help` lists them."""
