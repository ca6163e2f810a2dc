"""A table of texts by name that may be larger than memory: how the files of a corpus are joined.

It is a temporary SQLite database, which stays in memory while it is small, spills to the disk where it is not, and is
gone when it is closed, also by a crash.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

_CACHE_KIB = 65_536


class Lookup:
    """Texts by name, each name once. Use as a context manager."""

    def __init__(self) -> None:
        # An empty path is a database of its own in a temporary file, which SQLite removes.
        self._database = sqlite3.connect("", isolation_level=None)
        for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute(
            "CREATE TABLE texts (name TEXT PRIMARY KEY, text TEXT, is_used INTEGER DEFAULT 0) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")  # one transaction for all: nothing of it has to survive
        self._last: tuple[str | None, str | None] = (None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add_all(self, pairs: Iterable[tuple[str, str]]) -> str | None:
        """Add names with their texts; return the first name that was there before, or None."""
        last: str | None = None

        def remember() -> Iterator[tuple[str, str]]:
            nonlocal last
            for pair in pairs:
                last = pair[0]
                yield pair

        try:
            self._database.executemany("INSERT INTO texts (name, text) VALUES (?, ?)", remember())
        except sqlite3.IntegrityError:
            return last
        return None

    def get(self, name: str) -> str | None:
        """Return the text of a name, or None if there is no such name."""
        row = self._database.execute("SELECT text FROM texts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def use(self, name: str) -> str | None:
        """Return the text of a name as `get` does, and remember that it was used."""
        if name != self._last[0]:  # segments of one recording mostly come one after the other
            find = "UPDATE texts SET is_used = 1 WHERE name = ? RETURNING text"
            row = self._database.execute(find, (name,)).fetchone()
            self._last = name, None if row is None else row[0]
        return self._last[1]

    def unused(self) -> Iterator[tuple[str, str]]:
        """Yield the names that were never used, with their texts, sorted."""
        yield from self._database.execute("SELECT name, text FROM texts WHERE NOT is_used ORDER BY name")
