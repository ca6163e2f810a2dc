"""Hypotheses against references: errors counted, summed over the corpus, and how sure the sum is.

WER is errors over reference words of the whole corpus, not a mean over utterances. It is given in three forms of the
text: ``raw`` as it is; ``basic`` in lower case without punctuation; ``whisper`` by Whisper's own normalizer (for
English it also unites spellings, contractions and numbers). In the last two, each character of a language written
without spaces is a word.

Source: Levenshtein alignment by jiwer, https://github.com/jitsi/jiwer; normalizers of arXiv:2212.04356, appendix C.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whisper_shard.score.alignment import ErrorCounts, count_errors
from whisper_shard.score.bootstrap import BOOTSTRAP_SAMPLES, as_arrays, bootstrap_interval, resampled_rates
from whisper_shard.score.normalize import TextForm, characters_of, normalize_text


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceScore:
    """One hypothesis and its errors."""

    key: str
    """Name of the utterance."""
    reference: str
    """What was said, in the form compared."""
    hypothesis: str
    """What was recognized, in the form compared."""
    words: ErrorCounts
    """Errors in words."""
    chars: ErrorCounts
    """Errors in characters, spaces included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors of a corpus in one form of the text."""

    form: TextForm
    """How texts were brought to one form."""
    words: ErrorCounts
    """Errors in words, summed."""
    chars: ErrorCounts
    """Errors in characters, summed."""
    interval: tuple[float, float]
    """WER that 95 % of resampled corpora lie between."""
    utterances: tuple[UtteranceScore, ...]
    """Utterance by utterance."""

    @property
    def wer(self) -> float:
        """Word error rate of the corpus; 1.0 is 100 %, more is possible."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate of the corpus."""
        return self.chars.rate

    @property
    def substitutions(self) -> int:
        """Words heard as another."""
        return self.words.substitutions

    @property
    def deletions(self) -> int:
        """Words not heard."""
        return self.words.deletions

    @property
    def insertions(self) -> int:
        """Words heard where there was none."""
        return self.words.insertions

    @property
    def num_reference_words(self) -> int:
        """Words of all references."""
        return self.words.num_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Two systems on the same utterances."""

    difference: float
    """WER of the second minus WER of the first."""
    interval: tuple[float, float]
    """Difference that 95 % of resampled corpora lie between."""
    p_second_worse: float
    """Share of resampled corpora where the second has the higher WER; ties count half."""


def score_texts(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    keys: Sequence[str] = (),
    languages: Sequence[str | None] = (),
    form: TextForm = "basic",
    seed: int = 0,
) -> Score:
    """Compare hypotheses with references in one form of the text.

    Args:
        references: What was said.
        hypotheses: What was recognized, in the same order.
        keys: Names of the utterances.
        languages: BCP-47 tags, which choose the normalizer of form ``whisper``; None: en.
        form: How texts are brought to one form.
        seed: Seed of the bootstrap.
    """
    codes = [(languages[i] if languages else None) or "en" for i in range(len(references))]
    said = [normalize_text(text, form, code) for text, code in zip(references, codes, strict=True)]
    heard = [normalize_text(text, form, code) for text, code in zip(hypotheses, codes, strict=True)]
    said_chars, heard_chars = (list(map(characters_of, texts, codes)) for texts in (said, heard))
    rows = [
        UtteranceScore(
            key=keys[i] if keys else str(i), reference=said[i], hypothesis=heard[i], words=words, chars=chars
        )
        for i, (words, chars) in enumerate(
            zip(count_errors(said, heard), count_errors(said_chars, heard_chars, chars=True), strict=True)
        )
    ]
    return summarize(rows, form=form, seed=seed)


def summarize(rows: Iterable[UtteranceScore], *, form: TextForm, seed: int = 0) -> Score:
    """Sum utterances, from one process or gathered from several, into a score; order does not matter."""
    utterances = tuple(sorted(rows, key=_by_key))
    words = sum((row.words for row in utterances), ErrorCounts())
    chars = sum((row.chars for row in utterances), ErrorCounts())
    interval = bootstrap_interval([row.words for row in utterances], seed=seed)
    return Score(form=form, words=words, chars=chars, interval=interval, utterances=utterances)


def _by_key(row: UtteranceScore) -> str:
    return row.key


def paired_bootstrap(
    first: Score, second: Score, *, samples: int = BOOTSTRAP_SAMPLES, level: float = 0.95, seed: int = 0
) -> PairedComparison:
    """Compare two scores of the same utterances: each resampled corpus is the same for both.

    Raises:
        ValueError: The scores are not of the same utterances.
    """
    if [row.key for row in first.utterances] != [row.key for row in second.utterances]:
        raise ValueError("the two scores are not of the same utterances")
    errors_1, totals = as_arrays([row.words for row in first.utterances])
    errors_2, _ = as_arrays([row.words for row in second.utterances])
    differences = resampled_rates(errors_2 - errors_1, totals, samples, seed)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(differences, [tail, 1.0 - tail])
    worse = float(np.mean(differences > 0) + 0.5 * np.mean(differences == 0))
    return PairedComparison(difference=second.wer - first.wer, interval=(float(low), float(high)), p_second_worse=worse)
