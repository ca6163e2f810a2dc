"""The command `doctor`, and the lines it prints."""

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import say
from whisper_shard.config.tools import DoctorConfig
from whisper_shard.errors import EXIT_ENVIRONMENT


def run_doctor(config: DoctorConfig) -> int:
    """Check the installation; with --fix, repair it first."""
    from whisper_shard.cli.doctor import check_installation, disable_cuda_extensions

    for file in disable_cuda_extensions() if config.fix else []:
        say(f"disabled {file}: it needs CUDA libraries that this torch does not have")
    num_problems = 0
    for finding in check_installation():
        say(f"{'ok' if finding.is_ok else 'problem':<8} {finding.name:<30} {finding.detail}")
        num_problems += not finding.is_ok
    return EXIT_ENVIRONMENT if num_problems else 0


COMMAND = Command(
    has_urls=False,
    config=DoctorConfig,
    positionals={},
    run=run_doctor,
)
