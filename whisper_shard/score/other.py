"""What a score is compared with: an earlier score, a file with hypotheses, or another model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import ConfigError
from whisper_shard.score.compare import Comparison, compare_evaluations
from whisper_shard.score.evaluation import EvaluatedUtterance, Evaluation, summarize_utterances
from whisper_shard.score.events import ScoreProgress, Window
from whisper_shard.score.hypotheses import READERS, check_same_data, match_hypotheses, read_hypotheses
from whisper_shard.score.saved import is_score_folder, read_score


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Hypotheses for the same dataset."""

    name: str
    """Folder, file or model."""
    utterances: Mapping[Window, tuple[EvaluatedUtterance, ...]]
    """By kind of window; empty: a model, which is still to be asked."""
    notes: tuple[str, ...] = ()
    """What does not match."""
    is_file: bool = False
    """Whether it has a hypothesis, or none, for every utterance of the dataset."""


def open_other(name: str, data: Dataset, config: ScoreConfig) -> Other:
    """Find out what is meant, and read it unless it is a model.

    Raises:
        ConfigError: There is no such thing.
        ManifestError: A file cannot be used.
        DatasetError: A score is damaged, or of other data.
    """
    path = Path(name)
    if is_score_folder(path):
        saved = read_score(path)
        check_same_data(f"--against {name}", next(iter(saved.utterances.values())), data)
        return Other(name=name, utterances=saved.utterances)
    if path.is_file():
        utterances, notes = match_hypotheses(read_hypotheses(path), data, language=config.language or "en")
        return Other(name=name, utterances={"given": utterances}, notes=notes, is_file=True)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ConfigError(f"--against {name}: holds neither a score (score.json) nor a model (config.json)")
    if not path.exists() and (path.is_absolute() or path.suffix in READERS or name.startswith(".")):
        raise ConfigError(f"--against {name}: does not exist; give the folder of a score, a file or a model")
    return Other(name=name, utterances={})


def compare_with(
    other: Other, here: Evaluation, data: Dataset, config: ScoreConfig, progress: Callable[[ScoreProgress], None]
) -> Comparison:
    """Compare a score with something else, in the same kind of window where that has it.

    Raises:
        DatasetError: It is not of the same utterances.
        ModelError: It is a model that cannot be used.
        TrainingError: A batch does not fit into memory.
    """
    if not other.utterances:
        from whisper_shard.score.decode import Scorer

        window: Window = "full" if here.window == "given" else here.window
        (found,) = Scorer(other.name, config).decode(data, [window], progress)
        other = replace(other, utterances={window: found.utterances})
    window = here.window if here.window in other.utterances else next(iter(other.utterances))
    languages = {row.key: row.language for row in here.utterances}
    rows = [replace(row, language=languages.get(row.key, row.language)) for row in other.utterances[window]]
    if other.is_file:  # of the whole dataset, also where only some were decoded
        rows = [row for row in rows if row.key in languages]
    there = summarize_utterances(rows, window=window, form=here.score.form, loss=float("nan"), seconds=float("nan"))
    return compare_evaluations(other.name, here, there)
