"""Limits and range checks shared by the configurations."""

from whisper_shard.errors import ConfigError

MANY = 1_000_000_000
"""More than any run needs."""
MAX_NEW_TOKENS = 447
"""Longest hypothesis: Whisper's decoder has 448 positions, and at least one token precedes the text."""


def check_range(flag: str, value: float, low: float, high: float) -> None:
    """Check that a value lies in a closed range.

    Raises:
        ConfigError: It does not; names the flag.
    """
    if not low <= value <= high:
        raise ConfigError(f"{flag} is {value:g}; it must lie between {low:g} and {high:g}")


def parse_slice(flag: str, given: str) -> tuple[int, int]:
    """Return which part, from 0, of how many is meant by a text such as ``3/16``, which counts from 1.

    Raises:
        ConfigError: It has another form; names the flag.
    """
    number, _, total = given.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise ConfigError(f"{flag} {given}: must be I/N with 1 <= I <= N, such as 3/16")
    return int(number) - 1, int(total)


def check_order(flag: str, seconds: tuple[float, float]) -> None:
    """Check that two numbers of seconds are a range within 0 to 30.

    Raises:
        ConfigError: They are not; names the flag.
    """
    if not 0.0 <= seconds[0] <= seconds[1] <= 30.0:
        raise ConfigError(f"{flag} {seconds}: need 0 <= shortest <= longest <= 30")
