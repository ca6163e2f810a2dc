"""Errors of a hypothesis by minimal alignment with its reference, in words or in characters.

Source: Levenshtein alignment by jiwer, https://github.com/jitsi/jiwer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCounts:
    """Errors of one hypothesis, or of many together; units are words or characters."""

    substitutions: int = 0
    """Reference units recognized as another unit."""
    deletions: int = 0
    """Reference units without a counterpart in the hypothesis."""
    insertions: int = 0
    """Hypothesis units without a counterpart in the reference."""
    num_reference: int = 0
    """Units of the reference."""

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over reference units; without any reference unit 0 if there is no error, else 1."""
        return self.errors / self.num_reference if self.num_reference else float(self.errors > 0)

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
            num_reference=self.num_reference + other.num_reference,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedWords:
    """A stretch of an alignment in which all words are correct, or all have the same kind of error."""

    kind: Literal["equal", "substitute", "delete", "insert"]
    """Correct, or the kind of error."""
    reference: str
    """Words of the reference; empty for an insertion."""
    hypothesis: str
    """Words of the hypothesis; empty for a deletion."""

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each word of the reference with that of the hypothesis; an empty one where there is none."""
        return zip_longest(self.reference.split(), self.hypothesis.split(), fillvalue="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """A hypothesis aligned word by word with its reference."""

    words: tuple[AlignedWords, ...]
    """All words of both, in order."""
    counts: ErrorCounts
    """Errors in words."""


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Return the minimal alignment of each hypothesis with its reference, word by word."""
    import jiwer

    if not references:  # jiwer returns one empty pair
        return []
    output = jiwer.process_words(list(references), list(hypotheses))
    return [
        Alignment(words=tuple(_aligned_words(chunks, reference, hypothesis)), counts=_count(chunks, len(reference)))
        for chunks, reference, hypothesis in zip(output.alignments, output.references, output.hypotheses, strict=True)
    ]


def count_char_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[ErrorCounts]:
    """Return the errors of each hypothesis by minimal alignment in characters, spaces included."""
    import jiwer

    if not references:
        return []
    output = jiwer.process_characters(list(references), list(hypotheses))
    return [
        _count(chunks, len(reference)) for chunks, reference in zip(output.alignments, output.references, strict=True)
    ]


def _aligned_words(chunks: Iterable[Any], reference: Sequence[str], hypothesis: Sequence[str]) -> list[AlignedWords]:
    return [
        AlignedWords(
            kind=chunk.type,
            reference=" ".join(reference[chunk.ref_start_idx : chunk.ref_end_idx]),
            hypothesis=" ".join(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in chunks
    ]


def _count(chunks: Iterable[Any], num_reference: int) -> ErrorCounts:
    counts = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
    for chunk in chunks:
        counts[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    return ErrorCounts(
        substitutions=counts["substitute"],
        deletions=counts["delete"],
        insertions=counts["insert"],
        num_reference=num_reference,
    )
