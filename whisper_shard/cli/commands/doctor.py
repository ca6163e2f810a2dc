"""The command `doctor`, and the lines it prints."""

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import say
from whisper_shard.config.tools import DoctorConfig
from whisper_shard.errors import EXIT_ENVIRONMENT


def run_doctor(config: DoctorConfig) -> int:
    """Examine the installation; with --fix, mend it first."""
    from whisper_shard.cli.doctor import examine, put_cuda_extensions_aside

    for file in put_cuda_extensions_aside() if config.fix else []:
        say(f"put aside {file}: it needs CUDA libraries that this torch does not have")
    is_well = True
    for finding in examine():
        say(f"{'ok ' if finding.is_well else 'BAD'} {finding.name:<30} {finding.detail}")
        is_well = is_well and finding.is_well
    return 0 if is_well else EXIT_ENVIRONMENT


COMMAND = Command(
    config=DoctorConfig,
    positionals={},
    run=run_doctor,
)
