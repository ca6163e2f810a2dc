"""Which language a run trains with; where nobody has said so, also what the model hears before training."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import torch

from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.search import find_first
from whisper_shard.inference.language import detect_languages, language_tokens
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.model.window import fit_window, longest_window
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.text.languages import whisper_language
from whisper_shard.train.events import LanguageChosen, Warned

HEARD_UTTERANCES = 32
"""Evaluation utterances whose language the model is asked for."""
_BATCH = 4  # windows of 30 s in one pass


def report_language(
    loaded: LoadedWhisper, labeler: Labeler, evaluation: Dataset, given: str, *, dtype: torch.dtype
) -> Iterator[LanguageChosen | Warned]:
    """Yield the language that is used, and a warning where the model hears another one and nobody has chosen.

    Args:
        loaded: The model, where it computes.
        labeler: Turns texts into labels.
        evaluation: Evaluation data.
        given: ``--language``; may be empty.
        dtype: Of matrix products.

    Raises:
        DatasetError: The index is damaged, or an utterance is.
    """
    if not labeler.is_multilingual:
        yield LanguageChosen(languages=("en",), origin="the model is English-only", heard={})
        return
    tagged = sorted({whisper_language(value) for _, value in find_first(evaluation, "language")})
    if tagged:
        yield LanguageChosen(languages=tuple(tagged), origin="column language of the evaluation data", heard={})
        return
    used = whisper_language(labeler.language)
    if given:
        yield LanguageChosen(languages=(used,), origin="--language", heard={})
        return
    heard = dict(_hear(loaded, labeler, evaluation, dtype).most_common())
    yield LanguageChosen(languages=(used,), origin="neither --language nor a column language is given", heard=heard)
    if heard and (most := next(iter(heard))) != used:
        yield Warned(
            message=f"training uses language {used}, but the model hears {most} in {heard[most]} of "
            f"{sum(heard.values())} evaluation utterances; give --language {most} if that is right"
        )


def _hear(loaded: LoadedWhisper, labeler: Labeler, evaluation: Dataset, dtype: torch.dtype) -> Counter[str]:
    """Count the languages that the model hears."""
    model, tokens = loaded.model, language_tokens(labeler.tokenizer.get_vocab())
    log_mel, size = LogMel(loaded.n_mels).to(model.device), longest_window(model)
    heard = Counter[str]()
    with closing(open_evaluation(evaluation, batch_size=_BATCH, limit=HEARD_UTTERANCES, bad_record="skip")) as batches:
        for batch in batches:
            waveforms = batch.waveforms[batch.weights > 0].to(model.device)
            if len(waveforms):
                windows = log_mel(fit_window(waveforms, size))
                heard.update(detect_languages(model, windows, tokens, start_id=labeler.start_id, dtype=dtype))
    return heard
