"""Starts several ranks on one machine by torchrun, with exit codes that say what to do next.

torchrun itself exits with 1 and a traceback, whatever the exit codes of its ranks. Here a job that was asked to stop
exits like a single process: 75, run the same command again; 130, interrupted.
"""

import signal
import sys
from collections.abc import Collection, Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from whisper_shard.errors import EXIT_AGAIN, EXIT_INTERRUPTED


def main(argv: Sequence[str]) -> int:
    """Run ``whisper-shard train`` on several ranks and return the exit code of the job.

    Args:
        argv: Number of ranks, then the arguments of ``whisper-shard train``.
    """
    ranks, *arguments = argv
    words = ["--standalone", "--nproc-per-node", ranks, "-m", "whisper_shard", "train", *arguments]
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup: torchrun would handle it all the same
        words = ["--signals-to-handle", "SIGTERM,SIGINT,SIGQUIT", *words]
    try:
        run(parse_args(words))  # type: ignore[no-untyped-call]
    except SignalException as error:
        return EXIT_INTERRUPTED if error.sigval == signal.SIGINT else EXIT_AGAIN
    except ChildFailedError as error:
        return job_exit_code([failure.exitcode for failure in error.failures.values()])
    return 0


def job_exit_code(codes: Collection[int]) -> int:
    """Return the exit code of a job.

    Args:
        codes: Exit codes of its ranks; a rank ended by a signal has the negative number of the signal.
    """
    # As soon as one rank has exited, torchrun sends SIGTERM to the others, and on SIGHUP that. Some have saved as well,
    # but have restored the default handler and are ended by the signal: that is no failure.
    relevant = set(codes) - {-signal.SIGTERM, -signal.SIGHUP}
    for code in (EXIT_AGAIN, EXIT_INTERRUPTED):
        if relevant == {code}:
            return code
    # The rank that failed first has the specific code (3: environment); the others report lost contact, with 1.
    return max((code for code in relevant if 0 < code not in (EXIT_AGAIN, EXIT_INTERRUPTED)), default=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
