"""Phrases that follow themselves, as in texts of recognizers that repeat themselves."""

from collections.abc import Sequence


def find_repeated_phrase(words: Sequence[str], *, max_words: int, max_times: int) -> str | None:
    """Return a phrase that stands more than ``max_times`` times in a row, or None.

    Args:
        words: Of the text.
        max_words: Words of the longest phrase that is looked for.
        max_times: Times in a row that are not too many.
    """
    for size in range(1, min(max_words, len(words) // (max_times + 1)) + 1):
        num_equal = 0  # words in a row that are those of one phrase before
        for place in range(size, len(words)):
            num_equal = num_equal + 1 if words[place] == words[place - size] else 0
            if num_equal >= size * max_times:
                return " ".join(words[place - size + 1 : place + 1])
    return None
