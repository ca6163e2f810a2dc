import pytest

from tests.s3 import BUCKET, upload_folder
from whisper_shard.errors import AudioError, ConfigError
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.transcribe.sources import find_sources

STORE = ObjectStore()


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def test_files_and_folders_in_their_order(tmp_path):
    write(tmp_path / "talks" / "b.mp3")
    write(tmp_path / "talks" / "deep" / "a.WAV")
    write(tmp_path / "talks" / "notes.txt")
    single = write(tmp_path / "odd name.bin")
    sources = find_sources([single, str(tmp_path / "talks"), single], STORE)
    assert [(source.name, source.stem, source.suffix) for source in sources] == [
        ("odd name.bin", "odd name", "bin"), ("b.mp3", "b", "mp3"), ("deep/a.WAV", "deep/a", "wav"),
    ]  # fmt: skip
    with sources[0].open(STORE) as file:
        assert file.read() == b"x"
    assert sources[0].state()[0] == 1


def test_recordings_that_differ_in_their_suffix_keep_it(tmp_path):
    write(tmp_path / "a.mp3")
    write(tmp_path / "a.wav")
    assert [source.stem for source in find_sources([str(tmp_path)], STORE)] == ["a.mp3", "a.wav"]


def test_two_recordings_of_one_name(tmp_path):
    inputs = [write(tmp_path / folder / "x.wav") for folder in "ab"]
    with pytest.raises(ConfigError, match=r"a/x\.wav and .*b/x\.wav: their transcripts would have the same name"):
        find_sources(inputs, STORE)


def test_nothing_to_transcribe(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.wav: no such file or folder"):
        find_sources([str(tmp_path / "gone.wav")], STORE)
    with pytest.raises(ConfigError, match="no recordings in this folder"):
        find_sources([str(tmp_path)], STORE)
    with pytest.raises(ConfigError, match="nothing to transcribe: name files, folders or URLs after the model"):
        find_sources([], STORE)


def test_a_recording_that_went_away(tmp_path):
    path = write(tmp_path / "a.wav")
    (source,) = find_sources([path], STORE)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(AudioError, match="cannot be opened: No such file"):
        source.state()


def test_recordings_in_a_bucket(s3, tmp_path):
    write(tmp_path / "talks" / "deep" / "a.wav", b"abc")
    write(tmp_path / "talks" / "b.mp3", b"")
    write(tmp_path / "talks" / "notes.txt")
    folder = f"s3://{BUCKET}/transcribe-sources"
    upload_folder(tmp_path / "talks", folder)
    sources = find_sources([folder], STORE)
    assert [source.stem for source in sources] == ["b", "deep/a"]
    with sources[1].open(STORE) as file:
        assert file.read() == b"abc"
    with pytest.raises(AudioError, match="the file is empty"):
        sources[0].open(STORE)
    with pytest.raises(ConfigError, match="no such file, and no recordings in a folder of this name"):
        find_sources([f"{folder}/nothing"], STORE)
