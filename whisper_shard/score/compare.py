"""Two scores of the same utterances: is the difference more than chance, and which utterances changed."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from whisper_shard.errors import DatasetError
from whisper_shard.report.quantities import describe_number
from whisper_shard.score.bootstrap import PairedComparison
from whisper_shard.score.evaluation import Evaluation
from whisper_shard.score.events import Window
from whisper_shard.score.hypotheses import name_some
from whisper_shard.score.wer import Score, UtteranceScore, compare_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An utterance in which the two differ."""

    here: UtteranceScore
    """In this score."""
    there: UtteranceScore
    """In the other one."""

    @property
    def more_errors(self) -> int:
        """Errors here minus errors there."""
        return self.here.words.errors - self.there.words.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """This score against another one, in one form of the text."""

    name: str
    """The other one."""
    window: Window
    """Kind of window of this score."""
    other_window: Window
    """That of the other one."""
    here: Score
    """This score."""
    there: Score
    """The other one."""
    paired: PairedComparison
    """The difference, this minus the other: negative where this one is better."""
    changes: tuple[Change, ...]
    """Utterances with another number of errors, the largest change first."""

    @property
    def num_better(self) -> int:
        """Utterances with fewer errors here."""
        return sum(change.more_errors < 0 for change in self.changes)

    @property
    def num_worse(self) -> int:
        """Utterances with more errors here."""
        return sum(change.more_errors > 0 for change in self.changes)

    @property
    def num_equal(self) -> int:
        """Utterances with as many errors in both."""
        return len(self.here.utterances) - len(self.changes)

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the difference does not contain zero."""
        low, high = self.paired.interval
        return low > 0 or high < 0


def compare_evaluations(name: str, here: Evaluation, there: Evaluation) -> Comparison:
    """Compare two scores of the same utterances, both in one form of the text.

    Raises:
        DatasetError: They are not of the same utterances; names some.
    """
    _check_keys(name, {row.key for row in here.utterances}, {row.key for row in there.utterances})
    pairs = zip(here.score.utterances, there.score.utterances, strict=True)
    changes = [Change(here=ours, there=theirs) for ours, theirs in pairs if ours.words.errors != theirs.words.errors]
    return Comparison(
        name=name,
        window=here.window,
        other_window=there.window,
        here=here.score,
        there=there.score,
        paired=compare_scores(there.score, here.score),
        changes=tuple(sorted(changes, key=lambda change: (-abs(change.more_errors), change.here.key))),
    )


def _check_keys(name: str, ours: Collection[str], theirs: Collection[str]) -> None:
    only_here, only_there = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    for keys, words in ((only_here, "are not in it"), (only_there, "are only in it")):
        if keys:
            raise DatasetError(
                f"--against {name}: is a score of other utterances: {len(theirs):,} there, {len(ours):,} here, "
                f"{len(keys):,} {words} ({name_some(keys)}); score both on the same data, with the same --limit"
            )


def describe_comparison(found: Comparison) -> str:
    """Return the result in one sentence."""
    points = 100 * found.paired.difference
    low, high = (100 * end for end in found.paired.interval)
    chance = "" if found.is_clear else "; this may be chance"
    return (
        f"WER {found.here.wer:.2%} against {found.there.wer:.2%}: {points:+.2f} points "
        f"(95 % interval {low:+.2f} to {high:+.2f}{chance}); fewer errors in "
        f"{describe_number(found.num_better, 'utterance')}, more in "
        f"{found.num_worse:,}, as many in {found.num_equal:,}"
    )


def comparison_as_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values."""
    return {
        "name": found.name,
        "window": found.window,
        "other_window": found.other_window,
        "other_wer": found.there.wer,
        "other_cer": found.there.cer,
        "other_interval": list(found.there.interval),
        "difference": found.paired.difference,
        "interval": list(found.paired.interval),
        "p_worse": found.paired.p_second_worse,
        "num_better": found.num_better,
        "num_worse": found.num_worse,
        "num_equal": found.num_equal,
        "changes": [
            {
                "key": change.here.key,
                "errors": change.here.words.errors,
                "other_errors": change.there.words.errors,
                "reference": change.here.reference,
                "hypothesis": change.here.hypothesis,
                "other_hypothesis": change.there.hypothesis,
            }
            for change in found.changes
        ],
    }
