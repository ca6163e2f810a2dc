from whisper_shard.cli.main import run
from whisper_shard.dataset.index import open_dataset


def test_verify_finds_a_changed_byte_and_names_the_utterance(folder, capsys):
    dataset = open_dataset(folder / "data/eval")
    assert run(["verify", str(folder / "data/eval")]) == 0
    assert "intact; " in capsys.readouterr().out
    columns = dataset.columns("key", "audio_offset")
    shard = dataset.shard_path(0)
    whole = shard.read_bytes()
    place = int(columns["audio_offset"][0]) + 999
    shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert run(["verify", str(folder / "data/eval")]) == 1
    assert str(columns["key"][0]) in capsys.readouterr().out
    shard.write_bytes(whole)
