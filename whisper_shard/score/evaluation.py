"""What a score is made of: utterances with their hypotheses, from a model or from elsewhere. Needs no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whisper_shard.score.events import Window
from whisper_shard.score.normalize import TextForm
from whisper_shard.score.wer import Score, score_texts
from whisper_shard.utterance import Phrase

if TYPE_CHECKING:
    from whisper_shard.inference.confidence import Confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedUtterance:
    """One utterance after evaluation."""

    key: str
    """Name in the dataset."""
    reference: str
    """Text of the dataset."""
    hypothesis: str
    """Text decoded by the model."""
    language: str
    """BCP-47 tag: the dataset's, or the default given to the model."""
    hit_cap: bool
    """Whether the hypothesis was cut off at the cap."""
    seconds: float
    """Length of its audio."""
    confidence: "Confidence | None" = None
    """How sure the model is of the hypothesis; None: not measured."""
    phrases: tuple[Phrase, ...] | None = None
    """The parts of the hypothesis with their times; None: decoded without times."""
    reference_phrases: tuple[Phrase, ...] = ()
    """With ``phrases``: the parts of the reference with their times; one where the data has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Hypotheses for an evaluation set, in one kind of window."""

    window: Window
    """Kind of window; ``given``: the hypotheses come from elsewhere."""
    loss: float
    """Mean loss of a token; NaN: not known."""
    score: Score
    """Errors in the chosen form of the text."""
    utterances: tuple[EvaluatedUtterance, ...]
    """All utterances, sorted by key."""
    cap_hits: int
    """Hypotheses that were cut off at the cap."""
    seconds: float
    """Wall time of the slowest process; NaN: not known."""

    @property
    def wer(self) -> float:
        """Word error rate in the chosen form of the text."""
        return self.score.wer

    def score_as(self, form: TextForm) -> Score:
        """Return the errors in a form of the text."""
        return self.score if form == self.score.form else _score(self.utterances, form)


def summarize_utterances(
    rows: Iterable[EvaluatedUtterance], *, window: Window, form: TextForm, loss: float, seconds: float
) -> Evaluation:
    """Score utterances; of those with the same key the last counts.

    Args:
        rows: In any order.
        window: Kind of window.
        form: Form of the text.
        loss: Mean loss of a token; NaN: not known.
        seconds: Wall time; NaN: not known.
    """
    by_key = {row.key: row for row in rows}
    utterances = tuple(by_key[key] for key in sorted(by_key))
    return Evaluation(
        window=window,
        loss=loss,
        score=_score(utterances, form),
        utterances=utterances,
        cap_hits=sum(row.hit_cap for row in utterances),
        seconds=seconds,
    )


def _score(utterances: Sequence[EvaluatedUtterance], form: TextForm) -> Score:
    return score_texts(
        [row.reference for row in utterances],
        [row.hypothesis for row in utterances],
        keys=[row.key for row in utterances],
        languages=[row.language for row in utterances],
        form=form,
    )
