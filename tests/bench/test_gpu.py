"""The parts of `make gpu`: each is written as what it was, and repeated only where it did not succeed."""

import argparse
import json
import math
import time

import pytest

from benchmarks.bench_gpu import PEAK_TFLOPS, Part, list_lines, list_parts, read_part, run_part
from benchmarks.shapes import SHAPES


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(device="cpu", work=tmp_path, parts="", minutes=25.0, model="", digits="", peak_tflops=0.0)


def test_a_part_that_fails_says_why_and_is_repeated(args):
    part = Part(name="broken", words=("no_such_module",), seconds=60)
    found = run_part(part, args, math.inf)
    assert found["status"] == "failed" and "No module named benchmarks.no_such_module" in found["why"]
    assert read_part(part, args) == found
    assert "No module named" in (args.work / "broken.log").read_text()
    (args.work / "broken.log").unlink()
    run_part(part, args, math.inf)
    assert (args.work / "broken.log").exists(), "not taken from the first time"


def test_a_part_that_takes_too_long_is_stopped(args):
    found = run_part(Part(name="slow", words=("bench_gpu", "--help"), seconds=0.05), args, math.inf)
    assert found["status"] == "stopped after 0 s" and "result" not in found


def test_a_part_without_time_left_is_skipped(args):
    part = Part(name="late", words=("bench_gpu", "--help"), seconds=60)
    assert run_part(part, args, time.monotonic() - 1) == {"status": "skipped", "why": "--minutes 25 were over"}


@pytest.mark.slow
def test_a_part_that_writes_nothing_has_failed(args):
    found = run_part(Part(name="silent", words=("bench_gpu", "--help"), seconds=60), args, math.inf)
    assert found["status"] == "failed" and "exit code" in found["why"]


def test_a_part_that_has_succeeded_is_not_repeated(args):
    part, done = (
        Part(name="done", words=("no_such_module",), seconds=60),
        {"status": "ok", "result": {"summary": "fine"}},
    )
    (args.work / "done.json").write_text(json.dumps(done))
    assert run_part(part, args, math.inf) == done


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_device_has_all_kinds_of_parts(args, device, monkeypatch):
    monkeypatch.setattr("benchmarks.bench_gpu.name_of", lambda _: "NVIDIA H100 80GB HBM3" * (device == "cuda"))
    args.device = device
    parts = {part.name: part for part in list_parts(args)}
    assert {name.split("-")[0] for name in parts} == {"parity", "tests", "step", "attention", "recipe", "eval"}
    assert {part.shape for part in parts.values()} <= {"", *SHAPES}
    if device == "cuda":
        assert str(PEAK_TFLOPS["H100"]) in parts["step-large-v3"].words
        assert sum(part.seconds for part in parts.values()) > 25 * 60, "so --minutes decides, the important ones first"


def test_the_table_has_a_line_for_each_part_and_each_setting():
    step = {"utterances_per_second": 12.3456, "mfu": 0.4, "data_wait_share": 0.01}
    found = {
        "tests": {"status": "failed", "seconds": 3.0, "why": "no GPU"},
        "step-base": {"status": "ok", "seconds": 9, "result": {"steps": {"auto": step, "fp16": {"error": "too big"}}}},
    }
    lines = list(list_lines(found))
    assert "| tests | failed | 3.0 | no GPU |" in lines
    assert "| base | auto | 12.3 |  | 0.4 | 0.01 |  |" in lines
    assert "| base | fp16 | too big |" in lines
