"""Durations, sizes and counts as text."""

from collections.abc import Mapping


def describe_duration(seconds: float) -> str:
    """Return a duration in hours, minutes or seconds, whichever fits."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def describe_bytes(num_bytes: float) -> str:
    """Return a size with its unit, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.{0 if unit == 'B' else 1}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def describe_counts(counts: Mapping[str, int], *, most: int = 8) -> str:
    """Return counts as ``name 12, other 3``: the first ``most`` of them, and the number of the others."""
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:most])
    return shown + (f", and {len(counts) - most} more" if len(counts) > most else "")


def describe_number(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
