"""Settings of the command `filter`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """Make a view: an index of the utterances of a dataset that meet a condition, without copying audio."""

    where: str = ""
    """Condition, such as "chars_per_second < 25 and snr_db > 10"; columns and functions are in docs/quality.md."""
    relabel: str = ""
    """Columns by `score --write-columns NAME` whose hypotheses become the texts: pseudo-labels; empty: none."""
