"""Decode a dataset with a model, in one kind of window or several."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing

from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.model.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.score.evaluate import EvaluationSettings, evaluate_model
from whisper_shard.score.evaluation import Evaluation
from whisper_shard.score.events import ScoreProgress, Window
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.loader import open_evaluation


class Scorer:
    """Decodes datasets with one model.

    Args:
        model: Folder or hub name of the model.
        config: Settings of the command.

    Raises:
        ModelError: The model cannot be used.
        ConfigError: Precision or language are not possible.
    """

    def __init__(self, model: str, config: ScoreConfig) -> None:
        set_threads(config.threads)
        self._config = config
        self.num_prompted = 0
        """Utterances of the last dataset that have a prompt in the data."""
        self._loaded: LoadedWhisper = load_whisper(model)
        self._device = choose_device()
        set_up_gpu(self._device)
        self._loaded.model.to(self._device)
        self._dtype = choose_precision(config.precision, self._device)
        self._labeler = Labeler(
            self._loaded.tokenizer, config.language, config.task, is_multilingual=self._loaded.is_multilingual
        )

    @property
    def settings(self) -> dict[str, str]:
        """What the hypotheses depend on, by name."""
        import torch

        config = self._config
        search = f"{config.beams} beams" if config.beams > 1 else "greedy"
        return {
            "language where the data has none": self._labeler.language,
            "task where the data has none": config.task,
            "search": f"{search}, with times" if config.timestamps else search,
            **({"prompts": f"of {self.num_prompted:,} utterances, from the data"} if config.prompts else {}),
            "longest hypothesis": f"{config.max_new_tokens} tokens",
            "precision": str(self._dtype).removeprefix("torch."),
            "device": str(self._device),
            "torch": torch.__version__,
            "weights": f"sha256 {self._loaded.fingerprint[:16]}",
        }

    def decode(
        self, data: Dataset, windows: Sequence[Window], progress: Callable[[ScoreProgress], None]
    ) -> list[Evaluation]:
        """Decode a dataset in some kinds of windows.

        Raises:
            DatasetError: An utterance is damaged.
            TrainingError: A batch does not fit into memory.
            ConfigError: The cap is too high for the decoder.
        """
        return [self._evaluate(data, window, progress) for window in windows]

    def _evaluate(self, data: Dataset, window: Window, progress: Callable[[ScoreProgress], None]) -> Evaluation:
        config = self._config
        settings = EvaluationSettings(
            window=window,
            max_new_tokens=config.max_new_tokens,
            num_beams=config.beams,
            with_times=config.timestamps,
            with_prompts=config.prompts,
            dtype=self._dtype,
            form=config.text_form,
        )
        total = min(config.limit or data.num_utterances, data.num_utterances)
        batches = open_evaluation(data, batch_size=config.eval_batch, limit=config.limit)
        with closing(batches):
            shown = self._count_prompts(_report_progress(batches, window, total, progress))
            return evaluate_model(self._loaded, shown, self._labeler, settings)

    def _count_prompts(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        self.num_prompted = 0
        for batch in batches:
            self.num_prompted += sum(prompt is not None for prompt in batch.prompts)
            yield batch


def _report_progress(
    batches: Iterable[Batch], window: Window, total: int, progress: Callable[[ScoreProgress], None]
) -> Iterator[Batch]:
    """Yield batches, and report each when the next one is requested: then it has been evaluated."""
    done = 0
    for batch in batches:
        yield batch
        done += int((batch.weights > 0).sum())
        progress(ScoreProgress(window=window, num_done=done, num_utterances=total))
