"""The command `compare`: runs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import say_table, say_warning
from whisper_shard.config.tools import CompareConfig
from whisper_shard.errors import ConfigError

if TYPE_CHECKING:
    from whisper_shard.train.run.summary import RunSummary

_HEADER = ("run", "WER", "95 % interval", "before", "short windows", "CER", "best step", "steps", "ended")
_UNKNOWN = "-"


def run_compare(config: CompareConfig, *, run: tuple[str, ...]) -> int:
    """Print a table of the runs, and one of the settings in which they differ.

    Raises:
        ConfigError: No folder is given.
        StateError: A folder holds no run.
    """
    if not run:
        raise ConfigError("compare: RUN is missing; give the folders of one run or more")
    from whisper_shard.train.run.summary import find_differences, summarize_run

    runs = [summarize_run(Path(folder)) for folder in run]
    say_table(_HEADER, map(_row, runs))
    if len({summary.eval_sha256 for summary in runs}) > 1:
        say_warning("these runs were evaluated on different data: their error rates cannot be compared")
    if config.all_settings:
        names = dict.fromkeys(name for summary in runs for name in summary.settings)
        settings = {name: [summary.settings.get(name) for summary in runs] for name in names}
    else:
        settings = find_differences(runs)
    if settings:
        rows = ((name, *map(_show, values)) for name, values in settings.items())
        say_table(("setting", *(summary.run for summary in runs)), rows)
    return 0


def _row(run: "RunSummary") -> Sequence[str]:
    low, high = run.wer_interval or (None, None)
    return (
        run.run,
        _percent(run.wer),
        f"{_percent(low)} to {_percent(high)}" if low is not None else _UNKNOWN,
        _percent(run.wer_before),
        _percent(run.wer_short),
        _percent(run.cer),
        _UNKNOWN if run.best_step is None else str(run.best_step),
        str(run.steps),
        run.stopped,
    )


def _percent(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2%}"


def _show(value: Any) -> str:
    return _UNKNOWN if value is None else str(value)


COMMAND = Command(
    config=CompareConfig,
    positionals={"run": "folder of a run"},
    repeated="run",
    has_urls=False,
    run=run_compare,
)
