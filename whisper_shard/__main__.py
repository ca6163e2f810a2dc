"""Run the command line as ``python -m whisper_shard``."""

from whisper_shard.cli.main import main

main()
