"""The training and evaluation datasets of a run, checked before training begins."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.description import has_description
from whisper_shard.dataset.index import Dataset, IndexReader, open_dataset
from whisper_shard.dataset.search import check_texts, find_common, find_first, find_long_texts
from whisper_shard.errors import ConfigError, DatasetError, TrainingError
from whisper_shard.model.labels import Labeler
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore

_BYTES_PER_CHAR = 4  # at most, in UTF-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpora:
    """The datasets that a run trains and evaluates on."""

    train: Dataset
    """Not empty."""
    eval: Dataset
    """Not empty; shares no utterance with the training data."""
    mix: tuple[Dataset, ...] = ()
    """Further training data, not empty."""
    also: Mapping[str, Dataset] = field(default_factory=dict)
    """Further evaluation data by name, of which the same is true."""

    @property
    def training(self) -> tuple[Dataset, ...]:
        """All training data, in the order of the weights."""
        return (self.train, *self.mix)

    @property
    def evaluated(self) -> tuple[Dataset, ...]:
        """All evaluation data, that which decides first."""
        return (self.eval, *self.also.values())

    @property
    def num_silent(self) -> int:
        """Training utterances without a text, in which nothing is said."""
        return sum(map(_count_silent, self.training))


def open_corpora(dataset: Path | str, config: TrainConfig) -> Corpora:
    """Open training and evaluation data.

    Args:
        dataset: A dataset, or a folder with ``train`` and ``eval`` in it; a local path or a URL.
        config: ``eval`` may name the evaluation data, ``also_eval`` more of them, and ``mix`` further training data.

    Raises:
        DatasetError: A dataset is missing, damaged or without texts, or the training data is empty.
        TrainingError: The evaluation data is empty or shares utterances with the training data.
    """
    train, *mix = (_open_train(parse_location(folder)) for folder in (dataset, *config.stream.mix))
    places = [
        _find_eval(train.location, config.eval),
        *(_choose_part(parse_location(p), "eval") for p in config.also_eval),
    ]
    evaluation, *also = map(_open_eval, places)
    for data in (train, *mix):
        check_texts(data)
        for scored in (evaluation, *also):
            check_disjoint(data, scored)
    names = name_datasets([data.location for data in also])
    return Corpora(train=train, eval=evaluation, mix=tuple(mix), also=dict(zip(names, also, strict=True)))


def name_datasets(places: Sequence[Location]) -> list[str]:
    """Return a short name for each dataset: the last folder of its path, with the one before it for a part."""
    names = []
    for place in places:
        parts = str(place).rstrip("/").split("/")
        names.append("/".join(parts[-2:] if parts[-1] in ("train", "eval") else parts[-1:]))
    return names if len(set(names)) == len(names) else list(map(str, places))


def _open_eval(place: Location) -> Dataset:
    data = open_dataset(place)
    if data.num_utterances == 0:
        raise TrainingError(
            f"{data.location}: the evaluation set is empty; prepare with --eval-fraction above 0, or give --eval"
        )
    check_texts(data)
    return data


def _open_train(folder: Location) -> Dataset:
    data = open_dataset(_choose_part(folder, "train"))
    if data.num_utterances == 0:
        raise DatasetError(f"{data.location}: the dataset is empty: nothing to train on")
    return data


def warn_of_lost_texts(training: Sequence[Dataset]) -> Iterator[str]:
    """Yield a line about each dataset with utterances without a text, if nobody has said that they hold no speech."""
    for data in training:
        if data.description.empty_texts != "keep" and (count := _count_silent(data)):
            yield (
                f"{data.location}: {count:,} utterances have no text, and the model learns that nobody speaks in them; "
                f'if somebody does: whisper-shard filter {data.location} VIEW --where "num_chars > 0"; if not, prepare '
                "with --empty-texts keep, and this is not said again"
            )


def _count_silent(data: Dataset) -> int:
    return int((data.columns("num_chars")["num_chars"] == 0).sum())


def check_disjoint(train: Dataset, evaluation: Dataset) -> None:
    """Check that no evaluation utterance is also in the training set.

    Raises:
        TrainingError: Utterances have the same key, or the same audio (length and checksum), in both.
    """
    is_same_data = train.index_sha256 == evaluation.index_sha256
    shared = np.ones(evaluation.num_utterances, bool) if is_same_data else find_common(train, evaluation)
    if shared.any():
        first = IndexReader(evaluation).key(int(np.flatnonzero(shared)[0]))
        what = "is the training data itself" if is_same_data else "has the same key or audio as training data"
        raise TrainingError(
            f"{evaluation.location}: {int(shared.sum())} of {len(shared)} evaluation utterances are in "
            f"{train.location} too, the first is {first} ({what}); WER would be meaningless: remove the "
            "duplicates from the manifest, or give other rows with prepare --eval-corpus"
        )


def check_labels(data: Dataset, labeler: Labeler, *, timestamps: bool = False) -> None:
    """Check that the model has tokens and room for every text; only texts of doubtful length are tokenized.

    Args:
        data: Utterances with texts, languages and tasks.
        labeler: Turns texts into tokens of the model.
        timestamps: Whether a text may get a time token before and after it.

    Raises:
        TrainingError: The model does not know a language or task (names its first utterance), or texts have too many
            tokens (names the first three utterances).
    """
    _check_tags(data, labeler)
    if data.columns("num_chars")["num_chars"].max(initial=0) * _BYTES_PER_CHAR <= labeler.safe_bytes:
        return
    too_long = [
        row
        for row, text, language in find_long_texts(data, more_than_bytes=labeler.safe_bytes)
        if not labeler.has_room(text, language=language, timestamps=timestamps)
    ]
    if too_long:
        keys = list(map(IndexReader(data).key, too_long[:3]))
        raise TrainingError(
            f"{data.location}: {len(too_long)} utterances have texts of more than {labeler.max_tokens} tokens, all the "
            f"decoder has room for: {', '.join(keys)}{' ...' if len(too_long) > 3 else ''}; "
            'shorten them, or drop them by [[prepare.filters]] kind = "text_length", and prepare the dataset again'
        )


def _check_tags(data: Dataset, labeler: Labeler) -> None:
    """Check that the model knows every language and task.

    Raises:
        TrainingError: It does not know one; names its first utterance.
    """
    for (name, value), row in find_first(data, "language", "task").items():
        tags = {"language": None, "task": None, name: value}
        try:
            labeler.prefix_ids(tags["language"], tags["task"])
        except ConfigError as error:
            key = IndexReader(data).key(row)
            raise TrainingError(
                f"{data.location}: utterance {key}: {error}; it is the first with this value of column "
                f"{name}: correct the manifest and prepare the dataset again"
            ) from error


def _find_eval(train: Location, given: str) -> Location:
    if given:
        return _choose_part(parse_location(given), "eval")
    train_absolute = parse_location(train.path.absolute()) if train.is_local else train
    candidates = (train.join("eval"), train_absolute.parent.join("eval"))
    for folder in candidates:
        if _has_dataset(folder) and folder != train_absolute:
            return folder
    raise DatasetError(
        f"no evaluation data: neither {candidates[0]} nor {candidates[1]} is a finished dataset; give --eval DATASET"
    )


def _choose_part(folder: Location, part: str) -> Location:
    """Return a dataset, or the part of it where a folder with ``train`` and ``eval`` is named."""
    return folder.join(part) if _has_dataset(folder.join(part)) and not _has_dataset(folder) else folder


def _has_dataset(folder: Location) -> bool:
    return has_description(folder, ObjectStore())
