"""Which words are taken for which: the errors of a corpus counted by word."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from whisper_shard.score.wer import UtteranceScore

Kind = Literal["substitute", "delete", "insert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """One kind of error on one word."""

    kind: Kind
    """The kind of error."""
    reference: str
    """Word of the reference; empty for an insertion."""
    hypothesis: str
    """Word of the hypothesis; empty for a deletion."""
    times: int
    """How often it happened."""
    num_said: int
    """How often the word is in the references: that of the reference or, for an insertion, the inserted one."""


def count_confusions(utterances: Iterable[UtteranceScore]) -> dict[Kind, list[Confusion]]:
    """Return all errors by kind, the most frequent first."""
    said: Counter[str] = Counter()
    counts: Counter[tuple[Kind, str, str]] = Counter()
    for row in utterances:
        said.update(row.reference.split())
        counts.update(_list_errors(row))
    found: dict[Kind, list[Confusion]] = {"substitute": [], "delete": [], "insert": []}
    for (kind, reference, hypothesis), times in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        word = reference or hypothesis
        found[kind].append(
            Confusion(kind=kind, reference=reference, hypothesis=hypothesis, times=times, num_said=said[word])
        )
    return found


def _list_errors(row: UtteranceScore) -> Iterator[tuple[Kind, str, str]]:
    for part in row.alignment:
        if part.kind != "equal":
            yield from ((part.kind, reference, hypothesis) for reference, hypothesis in part.pairs)
