import json

import pytest

from tests.export.making import write_recordings
from whisper_shard.cli.commands.export import find_warnings
from whisper_shard.cli.main import run
from whisper_shard.export.parity import Parity


@pytest.mark.slow
def test_an_export_says_what_it_wrote_and_how_its_texts_compare(large_v3, tmp_path, capsys, caplog):
    out, recordings = tmp_path / "out", write_recordings(tmp_path, 2)
    command = ["export", str(large_v3), str(out), "--tolerance", "1", "--threads", "1", "--check", *recordings]
    assert run(command) == 0
    said = capsys.readouterr()
    assert [record.getMessage() for record in caplog.records] == []
    assert f"{out}: float32 for transformers" in said.out
    assert "transformers against this package in the same window: " in said.out
    assert json.loads((out / "parity.json").read_text())["num_samples"] == 2
    assert run(command) == 1
    assert f"error: {out}: exists and is not an empty folder" in capsys.readouterr().err


def test_without_a_comparison_it_says_so(tiny_folder, tmp_path, capsys):
    assert run(["export", str(tiny_folder), str(tmp_path / "out")]) == 0
    assert "not compared; --check DATASET or RECORDINGS" in capsys.readouterr().out


def test_warnings_name_what_a_tool_does_otherwise():
    parity = Parity(
        package="sherpa-onnx", num_samples=4, disagreement=0.0, disagreement_timestamps=0.3, wer_30s=0.1,
        wer_window=0.5, wer_tool=0.5, wer_tool_timestamps=None, num_cut=3, differences=(),
    )  # fmt: skip
    window, cut, timestamps = find_warnings(parity, 0.02)
    assert "sherpa-onnx does not pad audio with silence to 30 s, where this model has 40.00% more WER" in window
    assert "ends a text by the length of its clip, and cuts 3 of 4 utterances" in cut
    assert "with timestamps sherpa-onnx transcribes differently (30.00% WER)" in timestamps
