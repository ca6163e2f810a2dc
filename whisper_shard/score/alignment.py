"""Errors of a hypothesis by minimal alignment with its reference, in words or characters.

Source: Levenshtein alignment by jiwer, https://github.com/jitsi/jiwer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal


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
