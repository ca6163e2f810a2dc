"""The HTML page of a score: what is wrong first, then where, then the settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from whisper_shard.report.charts import Bars, Value, make_bars
from whisper_shard.report.page import render_page
from whisper_shard.report.quantities import describe_duration, describe_number
from whisper_shard.score.alignment import AlignedWords
from whisper_shard.score.compare import Change, Comparison, describe_comparison
from whisper_shard.score.confusions import Confusion, count_confusions
from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.events import WINDOW_NAMES
from whisper_shard.score.outputs import OutputCounts, is_empty, is_invented, is_looping
from whisper_shard.score.slices import SMALL_UTTERANCES, Slice
from whisper_shard.score.times import describe_times
from whisper_shard.score.wer import UtteranceScore

if TYPE_CHECKING:
    from whisper_shard.score.report import ScoreReport, WindowReport

SHOWN_UTTERANCES = 200
"""Utterances on the page at most: those with the most errors."""
SHOWN_CHANGES = 50
"""Utterances on the page at most that became worse, and that became better, against another score."""
SHOWN_SLICES = 100
"""Slices by one column on the page at most: those with the highest WER."""
SHOWN_CONFUSIONS = 30
"""Words of one kind of error on the page at most."""
_KINDS = {
    "seconds": "duration",
    "snr_db": "signal-to-noise ratio",
    "rms_db": "level",
    "bandwidth_hz": "bandwidth",
    "chars_per_second": "speaking rate",
    "num_chars": "length of the text",
    "source": "folder of the recording",
}
_TITLES = {"substitute": "Words taken for others", "delete": "Words left out", "insert": "Words added"}
_ORDERS = (("errors -1", "most errors first"), ("rate -1", "highest error rate first"), ("seconds -1", "longest first"))
_CHANGE_ORDERS = (("worse -1", "became worse first"), ("worse 1", "became better first"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDetails:
    """What a page shows of utterances besides their texts."""

    clips: Mapping[str, str] = field(default_factory=dict)
    """Their audio as data URLs, by key."""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What else is known of them, such as the speaker, by key."""


def list_worst(window: "WindowReport", report: "ScoreReport") -> list[tuple[EvaluatedUtterance, UtteranceScore]]:
    """Return the utterances that the page shows, those with the most errors first."""
    scores = window.scores[report.form].utterances
    wrong = [pair for pair in zip(window.utterances, scores, strict=True) if pair[1].words.errors]
    return sorted(wrong, key=_most_errors_first)[:SHOWN_UTTERANCES]


def list_shown(report: "ScoreReport") -> list[str]:
    """Return the keys of all utterances that the page shows, the most important first."""
    changed = [change.here.key for change in _list_changes(report.comparison)] if report.comparison else []
    return list(dict.fromkeys([*(row.key for row, _ in list_worst(report.windows[0], report)), *changed]))


def _list_changes(found: Comparison) -> list[Change]:
    """Return the largest changes for the worse, and as many for the better."""
    worse = [change for change in found.changes if change.more_errors > 0][:SHOWN_CHANGES]
    better = [change for change in found.changes if change.more_errors < 0][:SHOWN_CHANGES]
    return sorted([*worse, *better], key=lambda change: (-change.more_errors, change.here.key))


def build_page(report: "ScoreReport", details: PageDetails | None = None) -> str:
    """Return the page of a report."""
    details, window = details or PageDetails(), report.windows[0]
    worst, score = list_worst(window, report), report.score
    num_wrong = sum(row.words.errors > 0 for row in score.utterances)
    return render_page(
        "score.html",
        title=f"WER {score.wer:.2%}",
        interval=_percent(score.interval),
        summary=_summarize(report),
        warnings=report.warnings,
        numbers=_describe_numbers(report),
        comparison=_describe_comparison(report, details) if report.comparison else None,
        worst=[_describe_utterance(row, scored, details) for row, scored in worst],
        orders=[{"value": value, "name": name} for value, name in _ORDERS],
        num_more=f"{num_wrong - len(worst):,}" if num_wrong > len(worst) else "",
        player_note=_describe_players(worst, details),
        confusions=list(_confusions(score.utterances)),
        slices=list(_sections(window.slices)),
        small=SMALL_UTTERANCES,
        totals=list(_totals(report.windows)),
        settings=report.settings,
    )


def _summarize(report: "ScoreReport") -> str:
    return (
        f"{report.model} on {report.dataset}: {describe_number(report.num_utterances, 'utterance')}, "
        f"{describe_duration(report.audio_seconds)}. The WER above: {WINDOW_NAMES[report.windows[0].window]}, "
        f"text form {report.form}."
    )


def _describe_numbers(report: "ScoreReport") -> dict[str, str]:
    window, score = report.windows[0], report.score
    numbers = {
        "CER": f"{score.cer:.2%}, 95 % interval {_percent(score.cer_interval)}",
        "words": f"{score.num_reference_words:,}",
        "errors": f"{score.words.errors:,}: {score.substitutions:,} substitutions, {score.deletions:,} deletions, "
        f"{score.insertions:,} insertions",
        **describe_outputs(window.outputs),
    }
    if window.times:
        numbers["times"] = describe_times(window.times)
    if window.real_time_factor == window.real_time_factor:  # not NaN
        numbers["real-time factor"] = describe_speed(window)
    return numbers


def describe_outputs(counts: OutputCounts) -> dict[str, str]:
    """Return how many hypotheses are of which kind, by the name of the kind."""
    kinds = {"empty": counts.num_empty, "cut off": counts.num_capped, "looping": counts.num_looping}
    shares = {name: f"{number:,} ({number / max(counts.num_utterances, 1):.1%})" for name, number in kinds.items()}
    if counts.num_silent:
        shares["invented"] = f"{counts.num_invented:,} of {counts.num_silent:,} where nothing is said"
    return shares


def describe_speed(window: "WindowReport") -> str:
    """Return the real-time factor, and what it is made of."""
    seconds, audio = describe_duration(window.seconds), describe_duration(window.audio_seconds)
    return f"{window.real_time_factor:.3g} ({seconds} for {audio} of audio)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ChangedUtterance:
    """An utterance with another number of errors in another score."""

    key: str
    facts: list[str]
    flags: list[str]
    clip: str | None
    worse: int
    errors_here: str
    errors_there: str
    pairs_here: list[tuple[str, str, str]]
    pairs_there: list[tuple[str, str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ComparisonSection:
    """What differs from another score."""

    name: str
    summary: str
    is_worse: bool
    numbers: dict[str, str]
    orders: list[dict[str, str]]
    changes: list[_ChangedUtterance]
    num_more: str


def _describe_comparison(report: "ScoreReport", details: PageDetails) -> _ComparisonSection:
    found = report.comparison
    assert found is not None
    seconds = {row.key: row.seconds for row in report.windows[0].utterances}
    shown = _list_changes(found)
    windows = f"{WINDOW_NAMES[found.window]} here, {WINDOW_NAMES[found.other_window]} there"
    return _ComparisonSection(
        name=found.name,
        summary=describe_comparison(found) + ".",
        is_worse=found.is_clear and found.paired.difference > 0,
        numbers={
            "WER here": f"{found.here.wer:.2%}, 95 % interval {_percent(found.here.interval)}",
            "WER there": f"{found.there.wer:.2%}, 95 % interval {_percent(found.there.interval)}",
            "CER": f"{found.here.cer:.2%} here, {found.there.cer:.2%} there",
            "higher WER here": f"in {found.paired.p_second_worse:.1%} of resampled corpora",
            "utterances": f"{found.num_better:,} with fewer errors here, {found.num_worse:,} with more, "
            f"{found.num_equal:,} with as many",
            **({"windows": windows} if found.window != found.other_window else {}),
        },
        orders=[{"value": value, "name": name} for value, name in _CHANGE_ORDERS],
        changes=[_describe_change(change, seconds[change.here.key], details) for change in shown],
        num_more=f"{len(found.changes) - len(shown):,}" if len(found.changes) > len(shown) else "",
    )


def _describe_change(change: Change, seconds: float, details: PageDetails) -> _ChangedUtterance:
    key = change.here.key
    return _ChangedUtterance(
        key=key,
        facts=[
            f"{change.more_errors:+} {'errors' if abs(change.more_errors) > 1 else 'error'}",
            f"{seconds:.2f} s",
            *details.labels.get(key, ()),
        ],
        flags=[],
        clip=details.clips.get(key),
        worse=change.more_errors,
        errors_here=describe_errors(change.here),
        errors_there=describe_errors(change.there),
        pairs_here=list(pair_words(change.here.alignment)),
        pairs_there=list(pair_words(change.there.alignment)),
    )


def _totals(windows: Sequence["WindowReport"]) -> Iterator[dict[str, str]]:
    for window in windows:
        for form, score in window.scores.items():
            yield {
                "window": WINDOW_NAMES[window.window],
                "text form": form,
                "WER": f"{score.wer:.2%}",
                "95 % interval": _percent(score.interval),
                "CER": f"{score.cer:.2%}",
                "sub": f"{score.substitutions:,}",
                "del": f"{score.deletions:,}",
                "ins": f"{score.insertions:,}",
                "words": f"{score.num_reference_words:,}",
                "loss": f"{window.loss:.3f}" if window.loss == window.loss else "not known",
            }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A table with its heading."""

    title: str
    rows: list[dict[str, str]]
    texts: int = 1
    bars: Bars | None = None
    num_more: str = ""


def _sections(slices: Sequence[Slice]) -> Iterator[_Section]:
    for kind, group in groupby(slices, key=_kind_of):
        parts = list(group)
        if not parts[0].is_ordered:  # those whose rate means something first
            parts.sort(key=_reliable_and_worst_first)
        shown = parts[:SHOWN_SLICES]
        values = [Value(value=part.words.rate, interval=part.interval) for part in shown]
        yield _Section(
            title=f"WER by {_KINDS[kind]} ({kind})" if kind in _KINDS else f"WER by {kind}",
            rows=[_describe_slice(part) for part in shown],
            bars=make_bars(values, label=f"0 to {max(part.interval[1] for part in shown):.0%}"),
            num_more=f"{len(parts) - len(shown):,}" if len(parts) > len(shown) else "",
        )


def _kind_of(part: Slice) -> str:
    return part.kind


def _reliable_and_worst_first(part: Slice) -> tuple[bool, float, str]:
    return part.is_small, -part.words.rate, part.name


def _describe_slice(part: Slice) -> dict[str, str]:
    return {
        part.kind: part.name,
        "WER": f"{part.words.rate:.2%}",
        "95 % interval": _percent(part.interval),
        "CER": f"{part.chars.rate:.2%}",
        "sub": f"{part.words.substitutions:,}",
        "del": f"{part.words.deletions:,}",
        "ins": f"{part.words.insertions:,}",
        "words": f"{part.words.num_reference:,}",
        "utterances": f"{part.num_utterances:,}{' (few)' if part.is_small else ''}",
        "audio": describe_duration(part.seconds),
    }


def _confusions(utterances: Sequence[UtteranceScore]) -> Iterator[_Section]:
    for kind, found in count_confusions(utterances).items():
        if found:
            yield _Section(
                title=_TITLES[kind],
                rows=[_describe_confusion(each) for each in found[:SHOWN_CONFUSIONS]],
                texts=2 if kind == "substitute" else 1,
                num_more=f"{len(found) - SHOWN_CONFUSIONS:,}" if len(found) > SHOWN_CONFUSIONS else "",
            )


def _describe_confusion(found: Confusion) -> dict[str, str]:
    words = {"said": found.reference, "recognized": found.hypothesis}
    return {
        **{name: word for name, word in words.items() if word},
        "times": f"{found.times:,}",
        "said in all": f"{found.num_said:,}",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _AlignedUtterance:
    """An utterance with errors."""

    key: str
    facts: list[str]
    flags: list[str]
    clip: str | None
    errors: int
    rate: str
    seconds: str
    pairs: list[tuple[str, str, str]]


def _describe_utterance(row: EvaluatedUtterance, score: UtteranceScore, details: PageDetails) -> _AlignedUtterance:
    return _AlignedUtterance(
        key=row.key,
        facts=[describe_errors(score), f"{row.seconds:.2f} s", *details.labels.get(row.key, ())],
        flags=list_flags(row, score),
        clip=details.clips.get(row.key),
        errors=score.words.errors,
        rate=f"{score.words.rate:.4f}",
        seconds=f"{row.seconds:.3f}",
        pairs=list(pair_words(score.alignment)),
    )


def describe_errors(score: UtteranceScore) -> str:
    """Return the errors of an utterance and its words."""
    return f"{describe_number(score.words.errors, 'error')} in {describe_number(score.words.num_reference, 'word')}"


def list_flags(row: EvaluatedUtterance, score: UtteranceScore) -> list[str]:
    """Return what kind of no transcript a hypothesis is."""
    kinds = {
        "empty": is_empty(score),
        "cut off": row.hit_cap,
        "looping": is_looping(score),
        "invented": is_invented(score),
    }
    return [name for name, holds in kinds.items() if holds]


def pair_words(alignment: Sequence[AlignedWords]) -> Iterator[tuple[str, str, str]]:
    """Yield each word of an alignment: its kind, that of the reference, that of the hypothesis."""
    for part in alignment:
        yield from ((part.kind, reference, hypothesis) for reference, hypothesis in part.pairs)


def _describe_players(worst: Sequence[tuple[EvaluatedUtterance, UtteranceScore]], details: PageDetails) -> str:
    num_played = sum(row.key in details.clips for row, _ in worst)
    if not num_played:
        return "Without players"
    return "" if num_played == len(worst) else f"Players: the first {num_played:,}, until the page is full"


def _most_errors_first(pair: tuple[EvaluatedUtterance, UtteranceScore]) -> tuple[int, float, str]:
    row = pair[1]
    return -row.words.errors, -row.words.rate, row.key


def _percent(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2%} to {interval[1]:.2%}"
