"""The two datasets of a run: found, opened, and checked before any time is spent on them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whisper_shard.config import TrainConfig
from whisper_shard.errors import DatasetError, TrainingError
from whisper_shard.formats.index import DATASET_NAME, Dataset, open_dataset
from whisper_shard.train.tokens import Labeler

_BYTES_PER_CHAR = 4  # UTF-8 has at most so many, and byte-level BPE never makes more tokens than bytes
_PREFIX_TOKENS = 8  # room for start, language, task, time and end tokens and the space in front


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpora:
    """What a run learns from and what it is judged by."""

    train: Dataset
    """Not empty."""
    eval: Dataset
    """Not empty; shares no utterance with ``train``."""


def open_corpora(dataset: Path, config: TrainConfig) -> Corpora:
    """Open training and evaluation data.

    Args:
        dataset: A dataset, or a folder with ``train`` and ``eval`` in it.
        config: Its ``eval`` may name the evaluation data.

    Raises:
        DatasetError: A dataset is missing or damaged, or the training data is empty.
        TrainingError: The evaluation data is empty or shares utterances with the training data.
    """
    train_folder = dataset / "train" if _has_dataset(dataset / "train") and not _has_dataset(dataset) else dataset
    train = open_dataset(train_folder)
    if train.num_utterances == 0:
        raise DatasetError(f"{train_folder}: the dataset is empty: nothing to train on")
    evaluation = open_dataset(_find_eval(train_folder, config.eval))
    if evaluation.num_utterances == 0:
        raise TrainingError(
            f"{evaluation.folder}: the evaluation set is empty; prepare with --eval-fraction above 0, or give --eval"
        )
    check_disjoint(train, evaluation)
    return Corpora(train=train, eval=evaluation)


def check_disjoint(train: Dataset, evaluation: Dataset) -> None:
    """Refuse evaluation data that the model will have learned by heart.

    Raises:
        TrainingError: Utterances have the same key, or the same audio (length and checksum), in both.
    """
    ours, theirs = (data.columns("key", "num_samples", "audio_crc32") for data in (train, evaluation))
    if data_is_same := train.index_sha256 == evaluation.index_sha256:
        shared = np.ones(len(theirs["key"]), bool)
    else:
        audio = [c["num_samples"].astype(np.int64) << 32 | c["audio_crc32"].astype(np.int64) for c in (ours, theirs)]
        held_out = set(theirs["key"])  # the smaller set: training data may have millions of keys
        known = {key for key in ours["key"] if key in held_out}
        same_key = np.fromiter((key in known for key in theirs["key"]), bool, len(theirs["key"]))
        shared = same_key | np.isin(audio[1], audio[0])
    if shared.any():
        first = theirs["key"][int(np.flatnonzero(shared)[0])]
        what = "is the training data itself" if data_is_same else "has the same key or audio as training data"
        raise TrainingError(
            f"{evaluation.folder}: {int(shared.sum())} of {len(shared)} evaluation utterances are in "
            f"{train.folder} too, the first is {first} ({what}); WER would mean nothing: split the corpus again"
        )


def check_labels(data: Dataset, labeler: Labeler) -> None:
    """Refuse texts that do not fit into the decoder; only those long enough to be in doubt are tokenized.

    Raises:
        TrainingError: Names how many utterances have too many tokens, and the first three.
    """
    columns = data.columns("num_chars")
    doubtful = np.flatnonzero(columns["num_chars"] * _BYTES_PER_CHAR + _PREFIX_TOKENS > labeler.max_tokens)
    if len(doubtful) == 0:
        return
    rows = data.columns("key", "text", "language", "task")
    too_long = []
    for i in doubtful.tolist():
        key, text = rows["key"][i], rows["text"][i]
        if len(text.encode()) + _PREFIX_TOKENS > labeler.max_tokens and not _fits(labeler, key, text):
            too_long.append(key)
    if too_long:
        raise TrainingError(
            f"{data.folder}: {len(too_long)} utterances have texts of more than {labeler.max_tokens} tokens, all the "
            f"decoder has room for: {', '.join(too_long[:3])}{' ...' if len(too_long) > 3 else ''}; "
            "shorten or remove them and prepare the dataset again"
        )


def _fits(labeler: Labeler, key: str, text: str) -> bool:
    try:
        labeler.label(text, key=key)
    except TrainingError:
        return False
    return True


def _find_eval(train_folder: Path, asked: str) -> Path:
    if asked:
        folder = Path(asked)
        return folder / "eval" if _has_dataset(folder / "eval") and not _has_dataset(folder) else folder
    candidates = (train_folder / "eval", train_folder.absolute().parent / "eval")
    for folder in candidates:
        if _has_dataset(folder) and folder != train_folder.absolute():
            return folder
    raise DatasetError(
        f"no evaluation data: neither {candidates[0]} nor {candidates[1]} is a finished dataset; give --eval DATASET"
    )


def _has_dataset(folder: Path) -> bool:
    return (folder / DATASET_NAME).is_file()
