import json

import pytest

from tests.foreign import encode, write_tar
from whisper_shard.cli.main import run
from whisper_shard.dataset.index import open_dataset

QUICK = ["--jobs", "1", "--min-seconds", "0.1", "--min-text-chars", "1"]


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    members = {"code.pkl": b"\x80\x04", "alone.wav": encode(0.3)}
    for number in range(8):
        members[f"{number}.wav"] = encode(0.5 + number / 10, seed=number)
        members[f"{number}.txt"] = b"Number one, two, three."
    write_tar(folder / "set_0.tar", members)
    return folder


@pytest.mark.slow
def test_index_then_verify_inspect_and_bench(tars, tmp_path, capsys):
    out = str(tmp_path / "index")
    assert run(["index", str(tars), out, *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "1 tar, " in shown and "texts: txt and json members, --text-style basic; npy members are taken for" in shown
    assert f"{out}: 8 utterances, " in shown and "1 of 9 rejected: no_text 1" in shown
    assert "audio: wav 8" in shown and "members that are not read, by suffix: pkl 1" in shown
    assert "the tars are not sorted by length, so reads are shorter" in shown
    assert run(["verify", out]) == 0
    assert "intact; 8 utterances in 1 shard" in capsys.readouterr().out
    key = str(open_dataset(out).columns("key")["key"][2])
    assert run(["inspect", out, "--key", key, "--wav", str(tmp_path / "x.wav")]) == 0
    assert "number one two three" in capsys.readouterr().out
    assert (tmp_path / "x.wav").read_bytes()[:4] == b"RIFF"
    assert run(["bench", out, "--seconds", "0.2", "--max-workers", "0", "--batch-size", "4"]) == 0
    assert json.loads((tmp_path / "index/bench.json").read_text())


def test_errors_are_one_line(tars, tmp_path, capsys):
    assert run(["index", str(tars / "none_{0..1}.tar"), str(tmp_path / "index")]) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "none_0.tar: no such tar; give a tar" in shown
    assert not (tmp_path / "index").exists()
    assert run(["index", str(tars), str(tmp_path / "index"), "--max-seconds", "31"]) == 1
    assert "--max-seconds 31: need" in capsys.readouterr().err


@pytest.mark.long
def test_settings_from_a_file(tars, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[index]\nmin_seconds = 0.1\njobs = 1\n[[index.filters]]\nkind = "speaking_rate"\n')
    assert (
        run(["index", str(tars), str(tmp_path / "index"), "--config", str(recipe), "--max-reject-fraction", "1"]) == 0
    )
    assert open_dataset(tmp_path / "index").description.rejects["too_fast"] >= 1


@pytest.mark.long
def test_a_damaged_tar_is_to_be_restored_and_not_removed(tmp_path, capsys):
    tar, out = tmp_path / "set_0.tar", str(tmp_path / "index")
    write_tar(tar, {"0.wav": encode(0.5), "0.txt": b"Number one, two, three."})
    assert run(["index", str(tar), out, *QUICK]) == 0
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    capsys.readouterr()
    assert run(["verify", out]) == 1
    shown = capsys.readouterr().err
    assert "restore the files named above, or run `index` again" in shown and "remove" not in shown
