"""Three transcripts before and after normalization, and what signs are lost: shown before a long run begins."""

import re
from collections.abc import Iterator

import pyarrow as pa

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import TextError
from whisper_shard.text.styles import build_style

SHOWN_TEXTS = 3
"""Transcripts that are shown."""
SHOWN_CHARS = 70
"""Characters of each that are shown."""
_MEANT = re.compile(r"(?<=\d)[.,:/\-\u2013](?=\d)|[$%&+=@#\u00a3\u00a5\u00a7\u00b0\u20ac\u20b9]")
"""Signs that are read aloud: between digits, and currencies and the like. Without them, a text says something else."""


def describe_texts(rows: pa.Table, config: PrepareConfig) -> Iterator[str]:
    """Yield lines about transcripts: some before and after normalization, and how many lose signs that are read aloud.

    Args:
        rows: A sample, in MANIFEST_SCHEMA.
        config: Settings.
    """
    clean = build_style(config.text_style, config.text_rules)
    pairs = list[tuple[str, str]]()
    for transcript in filter(str.strip, rows["transcript"].to_pylist()):
        try:
            pairs.append((transcript, clean(transcript)))
        except TextError as error:
            pairs.append((transcript, f"({error})"))
    losses = [pair for pair in pairs if len(_MEANT.findall(pair[0])) > len(_MEANT.findall(pair[1]))]
    others = [pair for pair in pairs if pair not in losses]
    for transcript, text in [*losses[:SHOWN_TEXTS], *sorted(others, key=_is_unchanged)][:SHOWN_TEXTS]:
        yield f"text ({config.text_style}): {_shorten(transcript)} -> {_shorten(text)}"
    if losses:
        keep = "" if config.text_style == "written" else "; --text-style written keeps them"
        yield (
            f"{len(losses)} of {len(pairs)} sampled transcripts lose digits' signs or symbols that are read aloud "
            f"(as in 25.50, 3/4, $, %){keep}"
        )


def _is_unchanged(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _shorten(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}...")
