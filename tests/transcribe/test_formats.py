import json
from dataclasses import replace

import pytest

from whisper_shard.config import transcribe as config
from whisper_shard.transcribe.formats import (
    FORMATS,
    Transcript,
    TranscriptSegment,
    TranscriptWord,
    describe_time,
    from_json,
    to_json,
)


def segment(start, end, text):
    return TranscriptSegment(
        start=start, end=end, text=text, temperature=0.0, avg_logprob=-0.25, compression_ratio=1.5, no_speech_prob=0.125
    )


TRANSCRIPT = Transcript(
    language="en", seconds=3725.5,
    segments=(segment(0.0, 4.2, " one two"), segment(3600.0, 3725.46, " three --> four\tfive")),
)  # fmt: skip


def test_each_format():
    assert list(FORMATS) == list(config.FORMATS)
    assert FORMATS["txt"](TRANSCRIPT) == "one two\nthree --> four\tfive\n"
    assert FORMATS["srt"](TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:04,200\none two\n\n2\n01:00:00,000 --> 01:02:05,460\nthree -> four\tfive\n\n"
    )
    assert FORMATS["vtt"](TRANSCRIPT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:04.200\none two\n\n01:00:00.000 --> 01:02:05.460\nthree -> four\tfive\n\n"
    )
    assert FORMATS["tsv"](TRANSCRIPT) == "start\tend\ttext\n0\t4200\tone two\n3600000\t3725460\tthree --> four five\n"
    content = json.loads(FORMATS["json"](TRANSCRIPT))
    assert content["text"] == "one two three --> four\tfive"
    assert content["segments"][1]["start"] == 3600.0


def test_a_transcript_comes_back_from_json():
    assert from_json(json.loads(json.dumps(to_json(TRANSCRIPT)))) == TRANSCRIPT
    word = TranscriptWord(start=0.5, end=1.25, word=" one", probability=0.75)
    timed = replace(TRANSCRIPT, segments=(replace(TRANSCRIPT.segments[0], words=(word,)),))
    assert from_json(json.loads(FORMATS["json"](timed))) == timed
    assert "words" not in FORMATS["json"](TRANSCRIPT)
    with pytest.raises(KeyError):
        from_json({})


def test_times():
    assert describe_time(3661.2345) == "01:01:01.234"
    assert describe_time(59.9996, with_hours=False) == "01:00.000"
    assert describe_time(3600.0, with_hours=False) == "01:00:00.000"


def test_an_empty_transcript():
    empty = Transcript(language="en", seconds=1.0, segments=())
    assert {name: write(empty) for name, write in FORMATS.items() if name != "json"} == {
        "txt": "", "srt": "", "vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n",
    }  # fmt: skip
