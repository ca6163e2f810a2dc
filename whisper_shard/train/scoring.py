"""Hypotheses against references: errors counted, summed over the corpus, and how sure the sum is.

WER is errors over reference words of the whole corpus, not a mean over utterances. It is given in three forms of the
text: ``raw`` as it is; ``basic`` in lower case without punctuation; ``whisper`` by Whisper's own normalizer (for
English it also unites spellings, contractions and numbers). In the last two, each character of a language written
without spaces is a word.

Source: Levenshtein alignment by jiwer, https://github.com/jitsi/jiwer; normalizers of arXiv:2212.04356, appendix C.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from whisper_shard.train.tokens import WITHOUT_SPACES, whisper_language

TextForm = Literal["raw", "basic", "whisper"]
"""How texts are brought to one form before they are compared."""
TEXT_FORMS: tuple[TextForm, ...] = ("raw", "basic", "whisper")
"""All of them."""
BOOTSTRAP_SAMPLES = 2000
"""Resamplings of the corpus behind an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCounts:
    """Errors of one hypothesis, or of many together."""

    substitutions: int = 0
    """Reference units heard as another."""
    deletions: int = 0
    """Reference units not heard."""
    insertions: int = 0
    """Units heard where there was none."""
    num_reference: int = 0
    """Units of the reference."""

    @property
    def errors(self) -> int:
        """All three together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over reference units; without any reference: 0 if nothing was heard, else 1."""
        return self.errors / self.num_reference if self.num_reference else float(self.errors > 0)

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
            num_reference=self.num_reference + other.num_reference,
        )


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
    said_chars, heard_chars = (list(map(_characters, texts, codes)) for texts in (said, heard))
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


def count_errors(references: Sequence[str], hypotheses: Sequence[str], *, chars: bool = False) -> list[ErrorCounts]:
    """Return the errors of each hypothesis by minimal alignment, in words or in characters."""
    import jiwer

    if not references:
        return []
    output = (jiwer.process_characters if chars else jiwer.process_words)(list(references), list(hypotheses))
    return [
        _count(alignment, len(reference))
        for alignment, reference in zip(output.alignments, output.references, strict=True)
    ]


def _count(alignment: Iterable[Any], num_reference: int) -> ErrorCounts:
    counts = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
    for chunk in alignment:
        length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        counts[chunk.type] += length
    return ErrorCounts(
        substitutions=counts["substitute"],
        deletions=counts["delete"],
        insertions=counts["insert"],
        num_reference=num_reference,
    )


def bootstrap_interval(
    counts: Sequence[ErrorCounts], *, samples: int = BOOTSTRAP_SAMPLES, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the error rates that ``level`` of resampled corpora lie between.

    Utterances are drawn with replacement; errors and reference units are drawn together.

    Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.
    """
    if not counts:
        return (0.0, 0.0)
    errors, totals = _arrays(counts)
    rates = _resampled_rates(errors, totals, samples, seed)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(rates, [tail, 1.0 - tail])
    return float(low), float(high)


def paired_bootstrap(
    first: Score, second: Score, *, samples: int = BOOTSTRAP_SAMPLES, level: float = 0.95, seed: int = 0
) -> PairedComparison:
    """Compare two scores of the same utterances: each resampled corpus is the same for both.

    Raises:
        ValueError: The scores are not of the same utterances.
    """
    if [row.key for row in first.utterances] != [row.key for row in second.utterances]:
        raise ValueError("the two scores are not of the same utterances")
    errors_1, totals = _arrays([row.words for row in first.utterances])
    errors_2, _ = _arrays([row.words for row in second.utterances])
    differences = _resampled_rates(errors_2 - errors_1, totals, samples, seed)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(differences, [tail, 1.0 - tail])
    worse = float(np.mean(differences > 0) + 0.5 * np.mean(differences == 0))
    return PairedComparison(difference=second.wer - first.wer, interval=(float(low), float(high)), p_second_worse=worse)


def _arrays(counts: Sequence[ErrorCounts]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    errors = np.array([count.errors for count in counts], dtype=np.float64)
    totals = np.array([count.num_reference for count in counts], dtype=np.float64)
    return errors, totals


def _resampled_rates(
    errors: NDArray[np.float64], totals: NDArray[np.float64], samples: int, seed: int
) -> NDArray[np.float64]:
    """Return one rate a resampling; the utterances are drawn in slices, so that a long corpus needs little memory."""
    rng = np.random.default_rng(seed)
    size = len(errors)
    rates = np.empty(samples)
    at_once = max(1, math.ceil(4_000_000 / size))
    for start in range(0, samples, at_once):
        rows = rng.integers(0, size, size=(min(at_once, samples - start), size))
        rates[start : start + len(rows)] = errors[rows].sum(axis=1) / np.maximum(totals[rows].sum(axis=1), 1.0)
    return rates


def normalize_text(text: str, form: TextForm, language: str = "en") -> str:
    """Bring a text to one form.

    Args:
        text: A transcript.
        form: ``raw`` unites white space only; ``basic`` and ``whisper`` as in the module's docstring.
        language: BCP-47 tag, for the other two.
    """
    if form == "whisper":
        english = language.replace("_", "-").split("-")[0].lower() in ("en", "english")
        text = _whisper_normalizer(english)(text)
    elif form == "basic":
        text = _drop_punctuation(text)
    if form != "raw" and whisper_language(language) in WITHOUT_SPACES:
        text = _set_apart(text)
    return " ".join(text.split())


def _set_apart(text: str) -> str:
    """Put a space before each character, but not between it and its marks; as in arXiv:2212.04356, appendix C."""
    return "".join(char if unicodedata.category(char)[0] == "M" else f" {char}" for char in text)


def _characters(text: str, language: str) -> str:
    """Return what is compared character by character: in a language without spaces, none of those set between."""
    return text.replace(" ", "") if whisper_language(language) in WITHOUT_SPACES else text


def _drop_punctuation(text: str) -> str:
    """Lower the case and drop punctuation and symbols; marks stay, since in Indic scripts they are vowels.

    An apostrophe within a word goes without leaving a gap, other signs leave one.
    """
    lowered = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'").replace("'", "")
    return "".join(" " if unicodedata.category(char)[0] in "PSC" else char for char in lowered)


@cache
def _whisper_normalizer(english: bool) -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer({}) if english else BasicTextNormalizer()
    return normalizer


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedWords:
    """A stretch of an alignment."""

    kind: Literal["equal", "substitute", "delete", "insert"]
    """What happened to it."""
    reference: str
    """Words of the reference; empty for an insertion."""
    hypothesis: str
    """Words of the hypothesis; empty for a deletion."""


def align_words(reference: str, hypothesis: str) -> list[AlignedWords]:
    """Return reference and hypothesis side by side, in order."""
    import jiwer

    output = jiwer.process_words(reference, hypothesis)
    said, heard = output.references[0], output.hypotheses[0]
    return [
        AlignedWords(
            kind=chunk.type,
            reference=" ".join(said[chunk.ref_start_idx : chunk.ref_end_idx]),
            hypothesis=" ".join(heard[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in output.alignments[0]
    ]


def load_error_rates() -> Any:
    """Return WER and CER of a corpus as a metric of the ``evaluate`` library, to be used where others are.

    ``evaluate.load("wer")`` fetches its code from the network; this one is here. ``compute(references=...,
    predictions=...)`` gives ``{"wer": ..., "cer": ...}`` of the texts as they are; `score_texts` gives the same
    numbers and all that stands behind them.
    """
    import datasets
    import evaluate

    class ErrorRates(evaluate.Metric):  # type: ignore[misc]
        """Errors over reference units, of the whole corpus."""

        def _info(self) -> Any:
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description="Word and character error rate of a corpus.",
                citation="",
                inputs_description="references and predictions: lists of texts",
                features=datasets.Features({"predictions": text, "references": text}),
            )

        def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
            words = sum(count_errors(references, predictions), ErrorCounts())
            chars = sum(count_errors(references, predictions, chars=True), ErrorCounts())
            return {"wer": words.rate, "cer": chars.rate}

    return ErrorRates(keep_in_memory=True)
