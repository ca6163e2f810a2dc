"""What a probe of long recordings found: for a model, for the one it was trained from, and the difference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisper_shard.report.quantities import describe_duration, describe_number
from whisper_shard.score.alignment import ErrorCounts
from whisper_shard.score.bootstrap import PairedComparison, bootstrap_interval, paired_bootstrap
from whisper_shard.score.evaluation import EvaluatedUtterance, Evaluation, summarize_utterances
from whisper_shard.score.joined import PAUSE
from whisper_shard.score.normalize import TextForm
from whisper_shard.score.times import NEAR_SECONDS, TimeErrors, measure_times
from whisper_shard.score.wer import compare_scores

FEW_RECORDINGS = 5
"""With fewer recordings an interval is said to be a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore:
    """How well one model transcribes some recordings; its utterances are whole recordings."""

    evaluation: Evaluation
    """Texts and errors."""
    times: TimeErrors | None
    """Beginnings and ends of utterances against the times of segments."""

    @property
    def words(self) -> ErrorCounts:
        """Errors in words."""
        return self.evaluation.score.words

    @property
    def num_segments(self) -> int:
        """Segments in all recordings."""
        return sum(len(row.phrases or ()) for row in self.evaluation.utterances)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePart:
    """All recordings, or those of one language."""

    name: str
    """Whisper's code of the language; ``all``."""
    num_recordings: int
    """Recordings."""
    seconds: float
    """Their length."""
    here: ProbeScore
    """The model."""
    there: ProbeScore | None
    """The one it is compared with."""
    differences: dict[str, PairedComparison]
    """By name, ``WER``, ``CER`` and ``times off``, the model minus the other: above zero where it is worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """A probe."""

    model: str
    """Folder or hub name."""
    base: str
    """What it is compared with; empty: nothing."""
    dataset: str
    """Where the utterances come from."""
    form: TextForm
    """Form of the text that is compared."""
    num_utterances: int
    """Utterances in the recordings."""
    num_all: int
    """Utterances in the dataset."""
    parts: tuple[ProbePart, ...]
    """All recordings; then each language, if there are several."""
    settings: dict[str, str]
    """What the numbers depend on, by name."""
    notes: tuple[str, ...]
    """What a reader should know."""
    json_path: Path
    """Where it is written."""


def summarize_probe(
    here: Sequence[EvaluatedUtterance], there: Sequence[EvaluatedUtterance] | None, *, form: TextForm
) -> tuple[ProbePart, ...]:
    """Return the numbers of all recordings, and of each language if there are several.

    Args:
        here: Recordings as the model transcribes them.
        there: The same as the other transcribes them; None: there is no other.
        form: Form of the text.
    """
    languages = sorted({row.language for row in here})
    names = ["all", *(languages if len(languages) > 1 else [])]
    return tuple(_make_part(name, here, there, form) for name in names)


def _make_part(
    name: str, here: Sequence[EvaluatedUtterance], there: Sequence[EvaluatedUtterance] | None, form: TextForm
) -> ProbePart:
    ours = _score([row for row in here if name in ("all", row.language)], form)
    theirs = None if there is None else _score([row for row in there if name in ("all", row.language)], form)
    return ProbePart(
        name=name,
        num_recordings=len(ours.evaluation.utterances),
        seconds=sum(row.seconds for row in ours.evaluation.utterances),
        here=ours,
        there=theirs,
        differences={} if theirs is None else _compare(ours.evaluation, theirs.evaluation),
    )


def _score(rows: Sequence[EvaluatedUtterance], form: TextForm) -> ProbeScore:
    nan = float("nan")
    return ProbeScore(
        evaluation=summarize_utterances(rows, window="long", form=form, loss=nan, seconds=nan),
        times=measure_times(rows),
    )


def _compare(here: Evaluation, there: Evaluation) -> dict[str, PairedComparison]:
    """Return the differences, each by the paired bootstrap over recordings."""
    chars = [[row.chars for row in each.score.utterances] for each in (there, here)]
    found = {
        "WER": compare_scores(there.score, here.score),
        "CER": paired_bootstrap(
            [row.errors for row in chars[0]], [row.errors for row in chars[1]], [row.num_reference for row in chars[0]]
        ),
    }
    times = [[measure_times([row]) for row in each.utterances] for each in (there, here)]
    totals = [row.num_times if row else 0 for row in times[0]]
    if any(totals):
        theirs, ours = ([_count_off(row) for row in each] for each in times)
        found["times off"] = paired_bootstrap(theirs, ours, totals)
    return found


def _count_off(found: TimeErrors | None) -> int:
    """Return how many times are not near one of the hypothesis."""
    return round((1.0 - found.share_near) * found.num_times) if found and found.num_times else 0


def describe_probe(report: ProbeReport) -> Iterator[str]:
    """Say what was joined, how well each model does, and what the difference is."""
    whole = report.parts[0]
    yield (
        f"{describe_number(whole.num_recordings, 'recording')}, {describe_duration(whole.seconds)}, joined from "
        f"{report.num_utterances:,} of {report.num_all:,} utterances by a fixed shuffle; text compared: {report.form}"
    )
    yield f"between utterances: {PAUSE}"
    for part in report.parts:
        where = "" if part is whole else f" in {part.name}, {describe_number(part.num_recordings, 'recording')}"
        yield f"{report.model}{where}: {_describe_score(part.here)}"
        if part.there is not None:
            yield f"{report.base}{where}: {_describe_score(part.there)}"
            named = (_describe_difference(name, found) for name, found in part.differences.items())
            yield f"difference{where}: {', '.join(named)}"


def find_worse(report: ProbeReport) -> Iterator[str]:
    """Yield a line for each part in which the model is worse by more than chance."""
    for part in report.parts:
        worse = [name for name, found in part.differences.items() if found.interval[0] > 0]
        if worse:
            where = "long recordings" if part.name == "all" else f"long recordings in {part.name}"
            yield f"{where}: {report.model} is worse than {report.base} by more than chance in {', '.join(worse)}"


def _describe_score(found: ProbeScore) -> str:
    score, words = found.evaluation.score, found.words
    low, high = score.interval
    num = max(words.num_reference, 1)
    return (
        f"WER {score.wer:.2%} (95 % interval {low:.2%} to {high:.2%}), CER {score.cer:.2%}; of {num:,} words "
        f"{words.deletions / num:.1%} left out, {words.insertions / num:.1%} inserted; {_describe_times(found)}"
    )


def _describe_times(found: ProbeScore) -> str:
    segments = describe_number(found.num_segments, "segment")
    if found.times is None or not found.times.num_times:
        return f"{segments}; no recording has several utterances to compare their times with"
    return (
        f"{found.times.share_near:.1%} of {found.times.num_times:,} beginnings and ends of utterances within "
        f"{NEAR_SECONDS:g} s of a time of {segments}, in the middle {found.times.median_seconds:.2f} s away"
    )


def _describe_difference(name: str, found: PairedComparison) -> str:
    low, high = (100 * end for end in found.interval)
    chance = "" if low > 0 or high < 0 else "; this may be chance"
    return f"{name} {100 * found.difference:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}{chance})"


def probe_as_json(report: ProbeReport) -> dict[str, Any]:
    """Return a report as plain values, with all texts and times."""
    whole = report.parts[0]
    theirs = whole.there.evaluation.utterances if whole.there else [None] * whole.num_recordings
    return {
        "model": report.model,
        "base": report.base or None,
        "dataset": report.dataset,
        "settings": report.settings,
        "notes": list(report.notes),
        "num_utterances": report.num_utterances,
        "parts": {part.name: _part_as_json(part) for part in report.parts},
        "recordings": [
            {
                "name": ours.key,
                "language": ours.language,
                "seconds": ours.seconds,
                "reference": ours.reference,
                "utterances": _phrases_as_json(ours.reference_phrases),
                "hypothesis": ours.hypothesis,
                "segments": _phrases_as_json(ours.phrases or ()),
                "base_hypothesis": other.hypothesis if other else None,
                "base_segments": _phrases_as_json(other.phrases or ()) if other else None,
            }
            for ours, other in zip(whole.here.evaluation.utterances, theirs, strict=True)
        ],
    }


def _part_as_json(part: ProbePart) -> dict[str, Any]:
    return {
        "num_recordings": part.num_recordings,
        "seconds": part.seconds,
        "model": _score_as_json(part.here),
        "base": _score_as_json(part.there) if part.there else None,
        "differences": {
            name: {"difference": found.difference, "interval": list(found.interval), "p_worse": found.p_second_worse}
            for name, found in part.differences.items()
        },
    }


def _score_as_json(found: ProbeScore) -> dict[str, Any]:
    score, words = found.evaluation.score, found.words
    times = found.times if found.times and found.times.num_times else None
    return {
        "wer": score.wer,
        "interval": list(score.interval),
        "cer": score.cer,
        "cer_interval": list(score.cer_interval),
        "num_words": words.num_reference,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "num_segments": found.num_segments,
        "num_times": times.num_times if times else 0,
        "times_near": times.share_near if times else None,
        "times_near_interval": _near_interval(found) if times else None,
        "times_median_seconds": times.median_seconds if times else None,
    }


def _near_interval(found: ProbeScore) -> list[float]:
    measured = (measure_times([row]) for row in found.evaluation.utterances)
    rows = [row for row in measured if row and row.num_times]
    low, high = bootstrap_interval([_count_off(row) for row in rows], [row.num_times for row in rows])
    return [1.0 - high, 1.0 - low]


def _phrases_as_json(phrases: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"start": round(each.start, 3), "end": round(each.end, 3), "text": each.text} for each in phrases]
