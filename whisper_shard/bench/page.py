"""The benchmark report as one HTML file: two plots, two tables, no script and nothing loaded from elsewhere."""

import html
from collections.abc import Sequence
from pathlib import Path

from whisper_shard.bench.loader import BenchReport
from whisper_shard.report.page import render_page
from whisper_shard.storage.atomic import atomic_file

_WIDTH, _BAR, _LONGEST = 640, 26, 380  # pixels
_PLAIN, _GOOD, _SLOW = "#7a9cc6", "#4a9d78", "#d95f4b"
_STYLE = ".advice{background:#4a82;border-left:4px solid #4a8;padding:.6em 1em}"


def write_bench_page(report: BenchReport, path: Path) -> None:
    """Write the page.

    Args:
        report: What was measured.
        path: ``bench.html``; replaced if it exists.

    Raises:
        EnvironmentFault: It cannot be written.
    """
    with atomic_file(path) as file:
        file.write(bench_page(report).encode())


def bench_page(report: BenchReport) -> str:
    """Return the page."""
    stages = [
        (stage.name, stage.seconds * 1e6, f"{stage.seconds * 1e6:,.0f} us")
        for stage in report.stages
        if stage.where != "device"
    ]
    rates = [
        (_processes(rate.workers), rate.utterances_per_second, f"{rate.utterances_per_second:,.0f} /s")
        for rate in report.rates
    ]
    needed = report.batch_utterances / report.step_seconds if report.step_seconds else None
    need = "" if needed is None else f" The line is what training needs: {needed:,.0f} /s."
    device = "".join(
        f" On the device, {stage.name} takes {stage.seconds * 1e6:,.0f} us per utterance."
        for stage in report.stages
        if stage.where == "device"
    )
    facts = report.machine
    cores = f"{facts['cores']} core{'s' * (facts['cores'] != 1)}"
    machine = f"{cores} of {facts['processor']}, device {facts['device']}, Python {facts['python']}"
    body = f"""<h1>Loader benchmark: {html.escape(report.dataset)}</h1>
<p>{report.num_utterances:,} utterances, {report.hours:,.1f} hours; {report.batch_utterances:.0f} utterances a step;
{100 * report.padding_share:.1f} % of the samples of its batches is padding.</p>
<p class="advice">{html.escape(report.advice)}</p>
<h2>Utterances a second, by loader processes</h2>
{_bars(rates, marked=_processes(report.recommended_workers), color=_GOOD, line=needed)}
<p class="small">Green: recommended.{need}</p>
{_rate_table(report)}
<h2>Cost of an utterance, by stage, in one process</h2>
{_bars(stages, marked=report.bounding_stage, color=_SLOW)}
<p class="small">Red: what bounds the rate. Loader processes share their stages; the training process pays for
transfer.{device}</p>
<p class="small">Measured on {html.escape(machine)}.</p>"""
    return render_page(f"Loader benchmark: {report.dataset}", body, style=_STYLE)


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count != 1)}"


def _bars(bars: Sequence[tuple[str, float, str]], *, marked: str, color: str, line: float | None = None) -> str:
    longest = max([value for _, value, _ in bars] + [line or 0.0]) or 1.0
    lines = []
    for place, (name, value, label) in enumerate(bars):
        y, width = place * _BAR, _LONGEST * value / longest
        fill = color if name == marked else _PLAIN
        lines.append(
            f'<text x="110" y="{y + 17}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="120" y="{y + 4}" width="{width:.1f}" height="{_BAR - 8}" fill="{fill}"/>'
            f'<text x="{126 + width:.1f}" y="{y + 17}">{html.escape(label)}</text>'
        )
    if line is not None:
        x = 120 + _LONGEST * line / longest
        lines.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_BAR * len(bars)}" stroke="currentColor" stroke-width="2"/>'
        )
    height = _BAR * len(bars)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">{"".join(lines)}</svg>'


def _rate_table(report: BenchReport) -> str:
    head = "<tr><th>processes<th>audio h/s<th>MB/s<th>first batch<th>wait p50<th>wait p99<th>headroom</tr>"
    rows = "".join(
        f"<tr><td>{rate.workers}<td>{rate.audio_hours_per_second:.2f}<td>{rate.mb_per_second:,.0f}"
        f"<td>{rate.first_batch_seconds:.2f} s<td>{1000 * rate.wait_p50_seconds:.1f} ms"
        f"<td>{1000 * rate.wait_p99_seconds:.1f} ms"
        f"<td>{'' if rate.headroom is None else f'{rate.headroom:.1f}x'}</tr>"
        for rate in report.rates
    )
    return f'<table class="numbers">{head}{rows}</table>'
