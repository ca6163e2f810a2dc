import pytest

from whisper_shard.config.transcribe import TranscribeConfig
from whisper_shard.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": ("txt", "doc"), "output": "out"}, "--format doc: unknown; use txt, srt, vtt, json, tsv"),
        ({"format": ("srt",)}, "--format srt needs a folder for the files: --output FOLDER"),
        ({"temperatures": ()}, "--temperatures needs at least one value, such as 0"),
        ({"temperatures": (0.0, -1.0)}, "--temperatures is -1; it must lie between 0 and 10"),
        ({"temperatures": (0.4, 0.2)}, r"--temperatures \(0.4, 0.2\): each must be higher than the one before"),
        ({"max_compression_ratio": -1.0}, "--max-compression-ratio is -1"),
        ({"min_avg_logprob": 1.0}, "--min-avg-logprob is 1"),
        ({"max_no_speech": 2.0}, "--max-no-speech is 2"),
        ({"max_new_tokens": 448}, "--max-new-tokens is 448"),
        ({"seed": -1}, "--seed is -1"),
        ({"word_timestamps": True}, "--word-timestamps are written to json alone: add --format json --output FOLDER"),
        ({"vad": True, "condition_on_previous": True}, "--condition-on-previous needs one window after the other"),
        ({"batch": 0}, "--batch is 0"),
        ({"threads": -1}, "--threads is -1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        TranscribeConfig(**settings)
