"""The command line, as ``whisper-shard`` and as ``python -m whisper_shard``."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run one command and exit; while its libraries are imported, Ctrl-C ends the process without a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    is_usual = handler is signal.default_int_handler  # elsewhere, as under nohup, it stays what it is
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from whisper_shard.cli.main import main as run_command

    if is_usual:
        signal.signal(signal.SIGINT, handler)
    run_command()


if __name__ == "__main__":
    main()
