"""Durations, sizes and counts as text."""

from collections.abc import Mapping


def describe_duration(seconds: float) -> str:
    """Write a duration in the unit that suits it."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def describe_bytes(num_bytes: float) -> str:
    """Write a size in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.{0 if unit == 'B' else 1}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def describe_counts(counts: Mapping[str, int], *, most: int = 8) -> str:
    """Write counts as ``name 12, other 3``, the first ``most`` of them."""
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:most])
    return shown + (f", and {len(counts) - most} more" if len(counts) > most else "")


def describe_number(number: int, noun: str) -> str:
    """Write a number with its noun, in the plural where there is not one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
