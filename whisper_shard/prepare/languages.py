"""Language tags of a manifest become Whisper's codes; what is no language is rejected here, not only by `train`."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from whisper_shard.report.quantities import describe_number
from whisper_shard.text.languages import describe_near_languages, is_language, whisper_language

UNKNOWN_LANGUAGE = "unknown_language"
"""Reason of rows in a language that no version of Whisper knows."""
TAG_NAME = "language_tag"
"""Name under which a tag that was changed is carried along as it was."""
MAX_NOTES = 5
"""Tags that are noted one by one."""


@dataclass(slots=True, kw_only=True)
class LanguageCheck:
    """Mends the tags of a manifest, batch by batch, and counts what it did."""

    mended: Counter[str] = field(default_factory=Counter)
    """Rows by tag that became a code."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Rows by tag that is no language."""

    def mend(self, table: pa.Table) -> pa.Table:
        """Return rows with codes for tags and names, and with a reason where there is no such language.

        Args:
            table: In MANIFEST_SCHEMA.
        """
        codes = {tag: whisper_language(tag) for tag in pc.unique(table["language"]).to_pylist() if tag}
        if all(tag == code and is_language(code) for tag, code in codes.items()):
            return table
        columns = {name: table[name].to_pylist() for name in ("language", "extra", "reason", "detail")}
        for i, tag in enumerate(columns["language"]):
            code = codes.get(tag)
            if code is None or (code == tag and is_language(code)):
                continue
            if is_language(code):
                self.mended[tag] += 1
                columns["language"][i], columns["extra"][i] = code, _carry(columns["extra"][i], tag)
                continue
            self.unknown[tag] += 1
            if columns["reason"][i] is None:
                columns["reason"][i] = UNKNOWN_LANGUAGE
                columns["detail"][i] = f"language {tag!r}: {describe_near_languages(tag)}"
        for name, values in columns.items():
            table = table.set_column(
                table.column_names.index(name), table.schema.field(name), pa.array(values, pa.string())
            )
        return table

    def notes(self) -> Iterator[str]:
        """Yield lines about the tags that are no codes."""
        for tag, count in self.unknown.most_common(MAX_NOTES):
            yield (
                f"language {tag!r} is none of Whisper's: {describe_number(count, 'row')} rejected as "
                f"{UNKNOWN_LANGUAGE}; {describe_near_languages(tag)}"
            )
        if self.mended:
            shown = [f"{tag!r} is {whisper_language(tag)}" for tag, _ in self.mended.most_common(MAX_NOTES)]
            more = f", and {len(self.mended) - MAX_NOTES} more" if len(self.mended) > MAX_NOTES else ""
            yield (
                f"languages become codes in {describe_number(self.mended.total(), 'row')}: {', '.join(shown)}{more}; "
                f"the tags are carried along as {TAG_NAME}"
            )


def _carry(extra: str | None, tag: str) -> str:
    """Return the JSON of what is carried along, with a tag."""
    values = json.loads(extra) if extra else {}
    return json.dumps({TAG_NAME: tag, **values}, ensure_ascii=False)
