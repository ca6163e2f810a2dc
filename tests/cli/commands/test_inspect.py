import re

from whisper_shard.cli.main import run
from whisper_shard.dataset.index import open_dataset


def test_inspect_shows_a_dataset_and_one_utterance(folder, tmp_path, capsys):
    assert run(["inspect", str(folder / "data/train")]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^en\S* +\d+ +\d+\.\d s *$", shown, re.M)
    assert re.search(r"^ +1\.\d to \S+ #+ \d+$", shown, re.M)
    assert "Signal-to-noise ratio (dB)" in shown and re.search(r"^Longest +\d+\.\d\d ", shown, re.M)
    key = str(open_dataset(folder / "data/train").columns("key")["key"][0])
    assert run(["inspect", str(folder / "data/train"), "--key", key, "--wav", str(tmp_path / "u.wav")]) == 0
    assert run(["inspect", str(folder / "data/train"), "--key", str(int(key[:9]))]) == 1
    assert f"perhaps {key}\n" in capsys.readouterr().err
    assert run(["inspect", str(folder / "data/train"), "--key", key]) == 0
    assert "dBFS" in capsys.readouterr().out and (tmp_path / "u.wav").stat().st_size > 16_000
    assert run(["inspect", str(folder / "data/train"), "--wav", "u.wav"]) == 1
    assert "name it with --key" in capsys.readouterr().err
