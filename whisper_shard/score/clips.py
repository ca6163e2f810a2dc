"""The audio of some utterances of a dataset, embedded in a page, so that it plays without network and server."""

from collections.abc import Iterable
from contextlib import closing

from whisper_shard.audio.members import encode_mp3
from whisper_shard.audio.samples import to_float32, to_int16
from whisper_shard.dataset.index import Dataset
from whisper_shard.dataset.reader import decode_audio, open_reader
from whisper_shard.dataset.search import find_keys
from whisper_shard.dataset.sources.open import open_source
from whisper_shard.report.page import data_url

CLIP_CHARS = 4_000_000
"""Characters of all clips in a page at most: about 1,000 s of speech."""


def make_clips(data: Dataset, keys: Iterable[str]) -> dict[str, str]:
    """Return whole utterances as data URLs, by key, as long as there is room.

    Args:
        data: The dataset.
        keys: The most important first; one that is there twice counts once.

    Raises:
        DatasetError: A shard is missing or damaged.
        EnvironmentFault: The network fails.
    """
    wanted = list(dict.fromkeys(keys))
    rows = find_keys(data, wanted)
    clips: dict[str, str] = {}
    chars_left = CLIP_CHARS
    with closing(open_reader(data, open_source(data))) as reader:
        for key in wanted:
            samples = to_int16(to_float32(decode_audio(reader.read(rows[key]))))
            url = data_url("audio/mpeg", encode_mp3(samples))
            if len(url) > chars_left:
                break
            clips[key] = url
            chars_left -= len(url)
    return clips
