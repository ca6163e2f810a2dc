"""The command `verify`, and the lines it prints."""

from whisper_shard.cli.command import DATASET, Command
from whisper_shard.cli.console import Progress, say, say_error
from whisper_shard.config.tools import VerifyConfig
from whisper_shard.errors import EXIT_ERROR, WhisperShardError
from whisper_shard.report.quantities import describe_bytes, describe_number
from whisper_shard.storage.location import parse_location


def run_verify(config: VerifyConfig, *, dataset: str) -> int:
    """Check every byte of a dataset; list what is wrong."""
    from whisper_shard.dataset.index import open_dataset
    from whisper_shard.dataset.verify import Fault, verify_dataset

    if config.sha256:
        open_dataset(dataset, sha256=config.sha256)
    num_faults, checked = 0, None
    with Progress("verifying") as progress:
        for event in verify_dataset(dataset):
            if isinstance(event, Fault):
                num_faults += 1
                where = f"{event.file}, {event.key}" if event.key else event.file
                progress.say(f"{parse_location(dataset)}/{where}: {event.detail}")
            else:
                checked = event
                progress.update(
                    event.num_shards, event.num_shards_total, f"shards, {event.num_utterances:,} utterances"
                )
    if num_faults:
        faults = describe_number(num_faults, "fault")
        say_error(f"{dataset}: {faults}; {_describe_cure(dataset)}")
        return EXIT_ERROR
    if checked is not None:
        utterances = describe_number(checked.num_utterances, "utterance")
        shards, size = describe_number(checked.num_shards, "shard"), describe_bytes(checked.num_bytes)
        say(f"{dataset}: intact; {utterances} in {shards}, {size}, all read")
    return 0


def _describe_cure(dataset: str) -> str:
    """Return what to do; tars that others wrote are not ours to remove."""
    from whisper_shard.dataset.index import open_dataset

    try:
        is_foreign = open_dataset(dataset).is_foreign
    except WhisperShardError:
        is_foreign = False
    if is_foreign:
        return "restore the files named above, or run `index` again on the tars as they are now"
    return "remove the files named above and run `prepare` again, or restore them"


COMMAND = Command(config=VerifyConfig, positionals=DATASET, run=run_verify)
