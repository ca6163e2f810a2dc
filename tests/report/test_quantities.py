import pytest

from whisper_shard.report.quantities import describe_bytes, describe_counts, describe_duration, describe_number


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59.9, "59.9 s"), (60, "1.0 min"), (3599, "60.0 min"), (7.2e6, "2,000.0 h")]
)
def test_durations(seconds, text):
    assert describe_duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (72.2e6, "72.2 MB"), (5e15, "5,000.0 TB")]
)
def test_sizes(num_bytes, text):
    assert describe_bytes(num_bytes) == text


def test_counts_beyond_the_first_are_summed_up():
    assert describe_counts({"silent": 1200, "too_short": 3}) == "silent 1,200, too_short 3"
    assert describe_counts(dict.fromkeys("abcd", 1), most=2) == "a 1, b 1, and 2 more"
    assert describe_counts({}) == ""


def test_numbers_with_nouns():
    assert [describe_number(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
