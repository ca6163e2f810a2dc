"""The page of a loader benchmark."""

import dataclasses

import pytest

from tests.report.reading import HOSTILE, Page
from whisper_shard.bench.page import bench_page, write_bench_page
from whisper_shard.bench.report import BenchReport, EpochReads, LoaderRate, StageTime


@pytest.fixture
def report():
    rates = [
        LoaderRate(
            workers=workers, utterances_per_second=speed, audio_hours_per_second=speed / 1000, mb_per_second=12.0,
            first_batch_seconds=0.25, wait_p50_seconds=0.0012, wait_p99_seconds=0.0345, headroom=speed / 800,
            reads=1200 * (workers + 1), mb_fetched=250.4,
        )
        for workers, speed in ((0, 1000.0), (1, 2000.0))
    ]  # fmt: skip
    stages = [
        StageTime(name="read", seconds=3e-5, where="loader"),
        StageTime(name="augment", seconds=9e-5, where="loader"),
        StageTime(name="log_mel", seconds=4e-4, where="device"),
    ]
    machine = {"cores": 2, "processor": "a processor", "device": "cpu", "python": "3.11.9"}
    return BenchReport(
        dataset="data/train", num_utterances=1234, hours=2.5, batch_utterances=32.0, padding_share=0.031,
        step_seconds=0.04, stages=tuple(stages), rates=tuple(rates), bounding_stage="augment", recommended_workers=1,
        advice="Use --workers 1: that is enough.", machine=machine,
        epoch=EpochReads(requests=1580, gigabytes=9.676, fetched_over_used=1.0081, dollars=0.000632),
    )  # fmt: skip


def test_page_is_written_whole_with_all_numbers(report, tmp_path):
    write_bench_page(report, tmp_path / "bench.html")
    html = (tmp_path / "bench.html").read_text()
    assert html == bench_page(report)
    text = Page(html).text
    assert "1,234 utterances, 2.50 hours; 32 utterances per step; 3.1% of the samples of a batch are padding." in text
    assert "Use --workers 1: that is enough." in text
    assert "0 1,000 1.00 12 1 2,000 2.00 12" in text
    assert "0 0.25 s 1.2 ms 34.5 ms 1.2 x 1 0.25 s 1.2 ms 34.5 ms 2.5 x" in text
    assert "0 1,200 250 1 2,400 250" in text
    assert "1,580 requests, 9.68 GB (1.008 times the bytes used), $0.0006 at the given prices." in text
    assert "read 30 augment 90 Red" in text and "log_mel takes 400 microseconds" in text
    assert "Measured on 2 cores of a processor, device cpu, Python 3.11.9." in text


def test_bars_mark_the_recommended_setting_and_the_costliest_stage(report):
    rects = [attributes for tag, attributes in Page(bench_page(report)).tags if tag == "rect"]
    assert [(rect["width"], rect.get("class")) for rect in rects] == [
        ("50.0%", None), ("100.0%", "good"), ("33.33%", None), ("100.0%", "bad"),
    ]  # fmt: skip


def test_headroom_is_left_out_without_a_step_time(report):
    assert "headroom" in Page(bench_page(report)).text
    rates = tuple(dataclasses.replace(rate, headroom=None) for rate in report.rates)
    assert "headroom" not in Page(bench_page(dataclasses.replace(report, rates=rates))).text


def test_the_line_is_what_training_needs(report):
    page = Page(bench_page(report))
    assert {line["x1"] for tag, line in page.tags if tag == "line"} == {"40.0%"}
    assert "Line: what training needs, 800 utterances/s." in page.text
    page = Page(bench_page(dataclasses.replace(report, step_seconds=None)))
    assert page.count("line") == 0 and "what training needs" not in page.text


def test_texts_in_a_page_cannot_add_markup(report):
    machine = {**report.machine, "processor": HOSTILE}
    page = Page(bench_page(dataclasses.replace(report, dataset=HOSTILE, advice=HOSTILE, machine=machine)))
    assert page.text.count(HOSTILE) == 4
