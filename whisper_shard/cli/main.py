"""The entry point: choose the command, load its settings, run it, and turn errors into exit codes.

Heavy libraries are imported inside the commands, so that ``--help`` answers at once.
"""

import io
import signal
import sys
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import NoReturn

from whisper_shard.cli.commands import COMMANDS
from whisper_shard.cli.console import exit_on_closed_output, is_output_closed, say, say_error
from whisper_shard.cli.flags import load_config
from whisper_shard.cli.storage import STORAGE_HELP, storage_variables, take_storage_flags
from whisper_shard.config.storage import StorageFlags
from whisper_shard.errors import (
    EXIT_AGAIN,
    EXIT_BROKEN_PIPE,
    EXIT_ENVIRONMENT,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    ConfigError,
    WhisperShardError,
    suggest,
)
from whisper_shard.storage.atomic import is_environment_error
from whisper_shard.version import __version__

EXIT_CODES = {
    0: "done",
    EXIT_ERROR: "an error in the input, the settings or the data",
    EXIT_ENVIRONMENT: "a fault of the machine: disk full, no permission, broken installation",
    EXIT_AGAIN: "stopped by SIGTERM, or train by a closed terminal; the same command resumes",
    EXIT_INTERRUPTED: "stopped by Ctrl-C; the same command resumes",
    EXIT_BROKEN_PIPE: "the output was closed by its reader, as by `| head`",
}
"""The meaning of each exit code."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with one of EXIT_CODES."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show must not end a run
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["prepare"] and not {"-h", "--help"} & set(words):
        from whisper_shard.prepare.workers.light import keep_pandas_out

        keep_pandas_out()
    sys.exit(run(words))


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    signal.signal(signal.SIGTERM, partial(_exit_on_sigterm, argv))
    try:
        try:
            return _dispatch(argv)
        finally:
            if sys.stdout is not None:  # None if the shell closed it with >&-
                sys.stdout.flush()
    except WhisperShardError as error:
        say_error(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say_error(f"interrupted; {_how_to_continue(argv)}")
        return EXIT_INTERRUPTED
    except OSError as error:
        return _handle_os_error(error)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        _print_help()
        return 0
    if argv[0] == "--version":
        say(f"whisper-shard {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise ConfigError(
            f"whisper-shard has no command {name!r}{suggest(name, list(COMMANDS))}; see whisper-shard --help"
        )
    command = COMMANDS[name]
    flags, rest = take_storage_flags(rest) if command.has_urls else (StorageFlags(), list(rest))
    note = STORAGE_HELP if command.has_urls else ""
    config, paths = load_config(
        command.config,
        command=name,
        argv=rest,
        positionals=command.positionals,
        repeated=command.repeated,
        replaced=command.replaced,
        note=note,
    )
    with storage_variables(flags):
        return command.run(config, **paths)


def _print_help() -> None:
    say("whisper-shard: from a large speech corpus to a fine-tuned Whisper\n")
    for name, command in COMMANDS.items():
        usage = " ".join([name, *(word.upper() for word in command.positionals)])
        say(f"  {usage:<24} {(command.config.__doc__ or '').splitlines()[0]}")
    say("\nFlags and defaults: whisper-shard COMMAND --help. Every flag can be set in a TOML file: --config FILE.toml.")
    say("\nExit codes:")
    for code, meaning in EXIT_CODES.items():
        say(f"  {code:>3}  {meaning}")


def _handle_os_error(error: OSError) -> int:
    """Print an error of the machine; raise again what is an error of the program."""
    if isinstance(error, BrokenPipeError) and is_output_closed():
        exit_on_closed_output()
    if not is_environment_error(error):
        raise error
    say_error(
        f"{error.filename or 'this machine'}: {error.strerror or error}; fix this, then run the same command again"
    )
    return EXIT_ENVIRONMENT


def _how_to_continue(argv: Sequence[str]) -> str:
    if "--rebuild" in argv:
        return "run the same command without --rebuild to resume"
    if argv[:1] in (["prepare"], ["index"], ["train"], ["transcribe"]):
        return "run the same command again to resume"
    return "run the same command again to start over"


def _exit_on_sigterm(argv: Sequence[str], _signal: int, _frame: FrameType | None) -> NoReturn:
    """Exit by an exception, so that locks are released and child processes are stopped; files are always complete."""
    say_error(f"terminated; {_how_to_continue(argv)}")
    sys.exit(EXIT_AGAIN)
