import json

from tests.report.reading import Page
from whisper_shard.cli.main import run


def test_score_prints_both_windows_and_writes_its_report(folder, tmp_path, capsys):
    flags = ["--max-new-tokens", "8", "--out", str(tmp_path)]
    assert run(["score", str(folder / "tiny"), str(folder / "data/eval"), *flags]) == 0
    shown = capsys.readouterr().out
    assert "30 s windows  WER" in shown and "short windows WER" in shown
    assert f"see {tmp_path / 'score.html'} and {tmp_path / 'score.json'}" in shown
    wer = json.loads((tmp_path / "score.json").read_text())["windows"]["full"]["scores"]["basic"]["wer"]
    assert f"WER {wer:.2%}" in shown and f"WER {wer:.2%}" in Page((tmp_path / "score.html").read_text()).text
