import pytest

from whisper_shard.config.plugins import build_plugins
from whisper_shard.errors import ConfigError
from whisper_shard.prepare.filters import FILTERS, SpeakingRate


def test_steps_become_objects_with_their_parameters():
    (step,) = build_plugins(({"kind": "speaking_rate", "max_chars_per_second": 20.0},), FILTERS, where="filters")
    assert step == SpeakingRate(max_chars_per_second=20.0)


def test_step_from_outside_is_imported():
    (step,) = build_plugins(({"kind": "whisper_shard.prepare.filters:SpeakingRate"},), FILTERS, where="filters")
    assert step == SpeakingRate()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "speeking_rate"}, r"filters\[0\]: unknown kind 'speeking_rate'; did you mean 'speaking_rate'"),
        ({"kind": "xyz"}, r"filters\[0\]: unknown kind 'xyz'; there are duration, text_length, speaking_rate"),
        ({"min": 3}, r"filters\[0\]: needs a kind, one of duration"),
        ({"kind": "duration", "minimum": 3}, r"kind 'duration' does not take .*unexpected keyword argument 'minimum'"),
        ({"kind": "no.such.module:Thing"}, r"filters\[0\]: cannot import kind 'no.such.module:Thing': No module"),
        ({"kind": "whisper_shard.errors:Thing"}, r"cannot import kind .* has no attribute 'Thing'"),
    ],
)
def test_wrong_steps_are_named(step, message):
    with pytest.raises(ConfigError, match=message):
        build_plugins((step,), FILTERS, where="filters")
