"""The report of a prepared dataset: what was kept, what was rejected and why, as numbers and as an HTML page.

It says nothing of the speed of the preparation, which is printed: the same corpus gives the same page, byte for byte.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whisper_shard.dataset.statistics import EXTREMES, NameCounts, Ranked, Ranking, Statistics
from whisper_shard.prepare.events import SplitTotals
from whisper_shard.prepare.receipts import Receipt, count_rejects, count_rows
from whisper_shard.report.charts import Bars, Histogram, Value, make_bars, make_histogram
from whisper_shard.report.page import render_page
from whisper_shard.report.quantities import describe_bytes, describe_duration, describe_number
from whisper_shard.utterance import SAMPLE_RATE, ManifestRow

SHOWN_ROWS = 30
"""Rows of a table on the page at most."""
REJECT_EXAMPLES = 3
"""Rows that are shown of each reason."""
FindClip = Callable[[Mapping[str, Any]], str | None]
"""Returns the audio of a row of the index as a data URL, or None."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over all receipts of a split, small however large the corpus is."""

    num_rows: int = 0
    """Manifest rows."""
    seconds_in: float = 0.0
    """Audio decoded."""
    num_kept: int = 0
    """Utterances, by what became of the rows."""
    num_shards: int = 0
    """Tars."""
    num_bytes: int = 0
    """Bytes of all tars."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejects by reason."""
    kept: Statistics = field(default_factory=Statistics)
    """What is known of the utterances."""

    def add(self, receipt: Receipt) -> None:
        """Count one shard; its utterances are counted by `kept`."""
        self.num_rows += count_rows(receipt)
        self.num_kept += sum(receipt.rows["num_utterances"])
        self.seconds_in += sum(receipt.rows["seconds"])
        self.num_shards += receipt.info.num_bytes > 0
        self.num_bytes += receipt.info.num_bytes
        self.reasons.update(count_rejects(receipt))

    def totals(self) -> SplitTotals:
        """Return the sums."""
        return SplitTotals(
            num_rows=self.num_rows,
            num_utterances=self.kept.num_utterances,
            num_without_text=self.kept.num_without_text,
            num_rejects=self.reasons.total(),
            seconds_in=round(self.seconds_in, 3),
            seconds_kept=self.kept.num_samples / SAMPLE_RATE,
            rejects=dict(sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))),
            num_shards=self.num_shards,
            num_bytes=self.num_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectExample:
    """A rejected row, as it is shown."""

    row: ManifestRow
    """The line of the manifest."""
    reason: str
    """Why it was rejected."""
    detail: str
    """The values behind the reason."""
    seconds: float
    """Length of the recording, as far as it is known; 0: not known."""
    clip: str | None
    """Beginning of the recording as a data URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    """A card: what is said or wrong, numbers, and a player."""

    text: str
    facts: list[str]
    clip: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Cards under one heading."""

    title: str
    note: str
    examples: list[_Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A table of counts by name, the largest first."""

    title: str
    rows: list[dict[str, str]]
    bars: Bars
    num_more: int = 0
    num_other: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chart:
    """A histogram under its heading."""

    title: str
    histogram: Histogram | None


def render_report(
    name: str, tally: Tally, *, rejects: Sequence[RejectExample], checks: Sequence[str], find_clip: FindClip
) -> str:
    """Return the HTML page of one dataset.

    Args:
        name: ``train`` or ``eval``.
        tally: Its counts.
        rejects: The first rejected rows of each reason.
        checks: What was checked of the split, as lines.
        find_clip: Returns the audio of a row of the index, or None where there is no room for it.
    """
    totals, kept = tally.totals(), tally.kept
    return render_page(
        "dataset.html",
        name=name,
        hours=f"{describe_duration(totals.seconds_kept)} kept of {describe_duration(totals.seconds_in)}",
        totals=_describe_totals(totals),
        checks=checks,
        reasons=list(_reason_section(totals)),
        rejects=list(_reject_groups(totals, rejects)),
        suspicions=list(_suspicion_section(kept)),
        suspicious=[_group(ranking, ranked, find_clip) for ranking, ranked in kept.suspicious()],
        extremes=[
            _group(ranking, kept.rankings[ranking], find_clip)
            for ranking in EXTREMES
            if kept.rankings[ranking].num_utterances
        ],
        charts=list(_charts(kept)),
        has_quality=kept.has_quality or not kept.num_utterances,
        sections=[
            *_name_section("Languages", "language", kept.languages),
            *_name_section("Speakers", "speaker", kept.speakers),
        ],
    )


def _describe_totals(totals: SplitTotals) -> dict[str, str]:
    return {
        "manifest rows": f"{totals.num_rows:,}",
        "kept": f"{totals.num_utterances:,} ({_share(totals.num_utterances, _num_results(totals))})",
        "rejected": f"{totals.num_rejects:,} ({_share(totals.num_rejects, _num_results(totals))})",
        **({"without a text": f"{totals.num_without_text:,}"} if totals.num_without_text else {}),
        "audio decoded": describe_duration(totals.seconds_in),
        "audio kept": describe_duration(totals.seconds_kept),
        "shards": f"{totals.num_shards:,}",
        "size": describe_bytes(totals.num_bytes),
    }


def _num_results(totals: SplitTotals) -> int:
    """Return how many utterances there might have been; as many as rows, where none was cut."""
    return totals.num_utterances + totals.num_rejects


def _share(number: int, total: int) -> str:
    return f"{number / max(total, 1):.1%}"


def _reason_section(totals: SplitTotals) -> Iterator[_Section]:
    """Yield the table of rejects by reason, or nothing where nothing was rejected."""
    if totals.rejects:
        rows = [
            {"reason": reason, "rows": f"{number:,}", "share": _share(number, _num_results(totals))}
            for reason, number in totals.rejects.items()
        ]
        yield _section("Rejected, by reason", rows, list(totals.rejects.values()))


def _reject_groups(totals: SplitTotals, rejects: Iterable[RejectExample]) -> Iterator[_Group]:
    examples = list(rejects)
    for reason, number in list(totals.rejects.items())[:SHOWN_ROWS]:
        cards = [_describe_reject(example) for example in examples if example.reason == reason]
        yield _Group(title=reason, note=describe_number(number, "row"), examples=cards)


def _describe_reject(reject: RejectExample) -> _Example:
    row = reject.row
    columns = {"language": row.language, "speaker": row.speaker, "task": row.task, **row.extra}
    facts = [
        f"row {row.row:,}",
        row.source,
        *([f"{reject.seconds:.2f} s"] if reject.seconds else []),
        reject.detail,
        *(f"{name}: {value}" for name, value in columns.items() if value not in (None, "")),
    ]
    return _Example(text=row.transcript, facts=list(filter(None, facts)), clip=reject.clip)


def _suspicion_section(kept: Statistics) -> Iterator[_Section]:
    """Yield the table of suspicious utterances, or nothing where there are none."""
    found = list(kept.suspicious())
    if found:
        rows = [
            {
                "what": ranking.title,
                "utterances": f"{ranked.num_utterances:,}",
                "share": _share(ranked.num_utterances, kept.num_utterances),
                "keep the others: filter --where": f'"{ranking.opposite}"',
            }
            for ranking, ranked in found
        ]
        yield _section("Suspicious", rows, [ranked.num_utterances for _, ranked in found])


def _group(ranking: Ranking, ranked: Ranked, find_clip: FindClip) -> _Group:
    note = (
        "" if ranking.limit is None else f"{ranking.condition}: {describe_number(ranked.num_utterances, 'utterance')}"
    )
    return _Group(title=ranking.title, note=note, examples=[_describe_kept(row, find_clip) for row in ranked.examples])


def _describe_kept(row: Mapping[str, Any], find_clip: FindClip) -> _Example:
    facts = [f"{row['num_samples'] / SAMPLE_RATE:.2f} s", f"{row['chars_per_second']:.1f} characters/s"]
    if "snr_db" in row:
        facts += [
            f"{row['rms_db']:.0f} dBFS",
            f"SNR {row['snr_db']:.0f} dB",
            f"speech {row['speech_fraction']:.0%}",
            f"{row['bandwidth_hz'] / 1000:.1f} kHz",
            *([f"clipped {row['clipped_fraction']:.2%}"] if row["clipped_fraction"] else []),
        ]
    names = [row["speaker"], row["language"], row["key"], row["source"]]
    return _Example(text=row["text"], facts=[*facts, *filter(None, names)], clip=find_clip(row))


def _charts(kept: Statistics) -> Iterator[_Chart]:
    for measure, counts in kept.histograms.items():
        if kept.has_quality or counts.any() or measure.column == "num_samples":
            histogram = make_histogram(
                counts, measure.bin_width, unit=measure.unit, counted="utterance", first_bin=measure.first_bin
            )
            yield _Chart(title=measure.title, histogram=histogram)


def _name_section(title: str, column: str, counts: NameCounts) -> Iterator[_Section]:
    """Yield the table of some counts, or nothing where there are none."""
    items = counts.largest_first()
    total = sum(number for number, _ in items.values()) + counts.num_other
    if items:
        rows = [
            {
                column: name,
                "utterances": f"{number:,}",
                "share": _share(number, total),
                "audio": describe_duration(samples / SAMPLE_RATE),
            }
            for name, (number, samples) in list(items.items())[:SHOWN_ROWS]
        ]
        yield _section(title, rows, [number for number, _ in items.values()], num_other=counts.num_other)


def _section(title: str, rows: list[dict[str, str]], numbers: Sequence[int], *, num_other: int = 0) -> _Section:
    return _Section(
        title=title,
        rows=rows[:SHOWN_ROWS],
        bars=make_bars([Value(value=number) for number in numbers[:SHOWN_ROWS]], label=""),
        num_more=max(len(numbers) - SHOWN_ROWS, 0),
        num_other=num_other,
    )
