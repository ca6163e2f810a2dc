import pytest

from whisper_shard.errors import StateError
from whisper_shard.prepare.output import OutputFolder, lock_output, remove_output, remove_temp_files


def make_output(folder):
    """Create a file of each kind that runs leave behind; return the folder and their paths relative to it."""
    output = OutputFolder(path=folder / "out")
    kept = [output.plan, output.rows("train"), output.settings]
    kept += [output.dataset("train") / name for name in ("dataset.json", "shards/000000.tar")]
    kept.append(output.receipts("train") / "000000.json")
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return output, kept


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_temporary_files_of_killed_runs_are_removed(tmp_path):
    output, kept = make_output(tmp_path)
    for path in kept:
        path.with_name(f"{path.name}.tmp.123").touch()
    (output.state / "train.spool").touch()
    (output.state / "train.bucket0").touch()
    remove_temp_files(output)
    assert files_in(output.path) == sorted(kept)


def test_output_is_removed_but_for_what_the_next_run_overwrites(tmp_path):
    output, _ = make_output(tmp_path)
    remove_output(output)
    assert files_in(output.path) == [output.rows("train"), output.settings]
    remove_output(output)


def test_lock_is_held_by_one_and_only_for_folders_of_prepare(tmp_path):
    output = OutputFolder(path=tmp_path / "out")
    with lock_output(output), pytest.raises(StateError, match=r"is preparing into it right now"), lock_output(output):
        pass
    with lock_output(output):
        pass
    (tmp_path / "foreign/eval").mkdir(parents=True)
    with (
        pytest.raises(StateError, match=r"foreign: holds train or eval, but not from `prepare`"),
        lock_output(OutputFolder(path=tmp_path / "foreign")),
    ):
        pass
