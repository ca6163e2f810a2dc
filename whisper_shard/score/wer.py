"""Word and character error rate of a corpus, with confidence interval.

WER is the errors over the reference words of the whole corpus, not a mean over utterances. In forms of the text other
than ``raw`` (`normalize`), each character of a language written without spaces counts as a word.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whisper_shard.score.alignment import AlignedWords, ErrorCounts, align_words, count_char_errors
from whisper_shard.score.bootstrap import PairedComparison, bootstrap_interval, paired_bootstrap
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
    alignment: tuple[AlignedWords, ...]
    """Both, word by word."""
    words: ErrorCounts
    """Errors in words."""
    chars: ErrorCounts
    """Errors in characters, spaces included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors of a corpus in one form of the text."""

    form: TextForm
    """Form of the text."""
    words: ErrorCounts
    """Errors in words, summed."""
    chars: ErrorCounts
    """Errors in characters, summed."""
    interval: tuple[float, float]
    """WER that 95 % of resampled corpora lie between."""
    utterances: tuple[UtteranceScore, ...]
    """Utterance by utterance, sorted by key."""

    @property
    def wer(self) -> float:
        """Word error rate of the corpus; 1.0 is 100 %, more is possible."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate of the corpus."""
        return self.chars.rate

    @property
    def cer_interval(self) -> tuple[float, float]:
        """CER that 95 % of resampled corpora lie between; computed at each use."""
        return bootstrap_interval(
            [row.chars.errors for row in self.utterances], [row.chars.num_reference for row in self.utterances]
        )

    @property
    def substitutions(self) -> int:
        """Reference words recognized as another word."""
        return self.words.substitutions

    @property
    def deletions(self) -> int:
        """Reference words without a counterpart in the hypothesis."""
        return self.words.deletions

    @property
    def insertions(self) -> int:
        """Hypothesis words without a counterpart in the reference."""
        return self.words.insertions

    @property
    def num_reference_words(self) -> int:
        """Words of all references."""
        return self.words.num_reference


def score_texts(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    keys: Sequence[str] = (),
    languages: Sequence[str | None] = (),
    form: TextForm = "basic",
) -> Score:
    """Compare hypotheses with references in one form of the text.

    Args:
        references: What was said.
        hypotheses: What was recognized, in the same order.
        keys: Names of the utterances; empty: their numbers.
        languages: BCP-47 tags, which choose the normalizer; None or empty: en.
        form: Form of the text.
    """
    codes = [(languages[i] if languages else None) or "en" for i in range(len(references))]
    references, hypotheses = (
        [normalize_text(text, form, code) for text, code in zip(texts, codes, strict=True)]
        for texts in (references, hypotheses)
    )
    alignments = align_words(references, hypotheses)
    chars = count_char_errors(*(list(map(characters_of, texts, codes)) for texts in (references, hypotheses)))
    return summarize(
        (
            UtteranceScore(
                key=keys[i] if keys else str(i),
                reference=references[i],
                hypothesis=hypotheses[i],
                alignment=alignments[i].words,
                words=alignments[i].counts,
                chars=chars[i],
            )
            for i in range(len(references))
        ),
        form=form,
    )


def summarize(rows: Iterable[UtteranceScore], *, form: TextForm) -> Score:
    """Sum utterances to a score; their order does not matter."""
    utterances = tuple(sorted(rows, key=_by_key))
    return Score(
        form=form,
        words=sum((row.words for row in utterances), ErrorCounts()),
        chars=sum((row.chars for row in utterances), ErrorCounts()),
        interval=bootstrap_interval(
            [row.words.errors for row in utterances], [row.words.num_reference for row in utterances]
        ),
        utterances=utterances,
    )


def compare_scores(first: Score, second: Score) -> PairedComparison:
    """Compare the WER of two scores of the same utterances by the paired bootstrap.

    Raises:
        ValueError: The scores are not of the same utterances.
    """
    if [row.key for row in first.utterances] != [row.key for row in second.utterances]:
        raise ValueError("the two scores are not of the same utterances")
    return paired_bootstrap(
        [row.words.errors for row in first.utterances],
        [row.words.errors for row in second.utterances],
        [row.words.num_reference for row in first.utterances],
    )


def _by_key(row: UtteranceScore) -> str:
    return row.key
