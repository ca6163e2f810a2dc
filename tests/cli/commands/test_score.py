import json

import pytest

from tests.report.reading import Page
from whisper_shard.cli.main import run


@pytest.mark.slow
def test_score_prints_both_windows_and_writes_its_report(folder, tmp_path, capsys):
    flags = ["--max-new-tokens", "8", "--out", str(tmp_path)]
    assert run(["score", str(folder / "tiny"), str(folder / "data/eval"), *flags]) == 0
    shown = capsys.readouterr().out
    assert "30 s windows  WER" in shown and "short windows WER" in shown
    assert f"see {tmp_path / 'score.html'}, {tmp_path / 'score.json'} and {tmp_path / 'score.parquet'}" in shown
    assert "raw text: WER" in shown and "real-time factor" in shown
    wer = json.loads((tmp_path / "score.json").read_text())["windows"]["full"]["scores"]["basic"]["wer"]
    assert f"WER {wer:.2%}" in shown and f"WER {wer:.2%}" in Page((tmp_path / "score.html").read_text()).text


def test_slices_that_were_asked_for_are_printed(folder, tmp_path, capsys):
    flags = ["--max-new-tokens", "2", "--window", "short", "--out", str(tmp_path)]
    by = ["--by", "chars_per_second", "language"]
    assert run(["score", str(folder / "tiny"), str(folder / "data/eval"), *flags, *by]) == 0
    shown = capsys.readouterr()
    assert "short windows, by chars_per_second" in shown.out
    assert "(few)" in shown.out
    assert "--by language: all utterances are in one slice" in shown.err
