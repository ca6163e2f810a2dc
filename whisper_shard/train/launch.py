"""Several ranks of one machine started together: torchrun, with exit codes that say what to do next.

torchrun itself ends with 1 and a traceback whatever its ranks have ended with. Here a job that was asked to stop ends
with the codes of one process: 75, run me again; 130, interrupted.
"""

import signal
import sys
from collections.abc import Collection, Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from whisper_shard.errors import EXIT_AGAIN, EXIT_INTERRUPTED


def main(argv: Sequence[str]) -> int:
    """Start ``whisper-shard train`` on several ranks, wait for their end and return an exit code.

    Args:
        argv: Number of ranks, then the arguments of ``whisper-shard train``.
    """
    ranks, *arguments = argv
    words = ["--standalone", "--nproc-per-node", ranks, "-m", "whisper_shard", "train", *arguments]
    try:
        run(parse_args(words))  # type: ignore[no-untyped-call]
    except SignalException as error:
        return EXIT_INTERRUPTED if error.sigval == signal.SIGINT else EXIT_AGAIN
    except ChildFailedError as error:
        return job_exit_code([failure.exitcode for failure in error.failures.values()])
    return 0


def job_exit_code(codes: Collection[int]) -> int:
    """Return the exit code of a job from those of its ranks, negative for signals.

    A rank that has saved and left makes torchrun end the others, which may already have stopped listening to SIGTERM.
    What only one rank can say, such as that input is wrong, counts before what the others say of losing contact.
    """
    left = set(codes) - {-signal.SIGTERM}
    for code in (EXIT_AGAIN, EXIT_INTERRUPTED):
        if left == {code}:
            return code
    return max((code for code in left if 0 < code not in (EXIT_AGAIN, EXIT_INTERRUPTED)), default=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
