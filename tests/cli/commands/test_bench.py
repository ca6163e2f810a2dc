import json

import pytest

from whisper_shard.cli.main import run


@pytest.mark.slow
def test_bench_names_what_bounds_the_loader(folder, capsys):
    flags = ["--seconds", "0.3", "--max-workers", "1", "--batch-size", "4", "--step-ms", "50"]
    flags += ["--mix", str(folder / "data/eval"), "--weights", "1", "2"]
    assert run(["bench", str(folder / "data/train"), *flags]) == 0
    assert "utterances/s" in capsys.readouterr().out
    assert json.loads((folder / "data/train/bench.json").read_text())["num_utterances"] == 20
    assert "<svg" in (folder / "data/train/bench.html").read_text()
