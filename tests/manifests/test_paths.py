import unicodedata

import pytest

from tests.manifests.reading import notes_of, read_rows, touch, write
from whisper_shard.manifests.paths import PathFinder, find_folder


def test_ordinary_paths_cost_no_system_call(tmp_path, monkeypatch):
    finder = PathFinder(tmp_path)
    monkeypatch.setattr(PathFinder, "exists", lambda *_: pytest.fail("looked up"))
    assert finder.find_all(["a.wav", "b/c.MP3", "none.flac", ""]) == [None] * 4
    assert PathFinder(tmp_path, "clips/").find("a.mp3") == "clips/a.mp3"
    assert finder.notes() == []


def test_backslashes_are_read_as_slashes(tmp_path):
    touch(tmp_path, "clips/a.wav", "odd\\name.wav")
    finder = PathFinder(tmp_path)
    assert finder.find_all(["clips\\a.wav", "odd\\name.wav", "clips\\none.wav"]) == ["clips/a.wav", None, None]
    assert finder.notes() == ["1 audio path with backslashes, read with slashes, such as 'clips\\\\a.wav'"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_names_are_found_in_either_unicode_form(tmp_path, on_disk):
    name = "Gr\u00fc\u00dfe \u00c5.wav"
    touch(tmp_path, unicodedata.normalize(on_disk, name))
    for form in ("NFC", "NFD"):
        found = PathFinder(tmp_path).find(unicodedata.normalize(form, name))
        assert found == (None if form == on_disk else unicodedata.normalize(on_disk, name))


def test_missing_suffixes_are_found(tmp_path):
    touch(tmp_path, "utt1.flac", "utt2.flac", "utt3.WAV", "utt.004.mp3", "plain")
    finder = PathFinder(tmp_path)
    assert finder.find_all(["utt1", "utt2", "utt3", "utt.004", "plain"]) == [
        "utt1.flac",
        "utt2.flac",
        "utt3.WAV",
        "utt.004.mp3",
        None,
    ]
    assert finder.notes() == ["4 audio paths without a suffix, found with one, such as 'utt1'"]
    # A file that comes later is noticed by its expected name.
    assert finder.find("utt9") == "utt9.mp3"


def test_the_folder_is_found_from_the_first_files(tmp_path):
    touch(tmp_path, "clips/a.wav", "other/x.wav", "data/b.wav")
    assert find_folder(tmp_path, ["a.wav"]) == (tmp_path, "clips/", [f"audio paths are relative to {tmp_path}/clips"])
    assert find_folder(tmp_path, ["clips/a.wav"]) == (tmp_path, "", [])
    assert find_folder(tmp_path / "other/deep", ["data/b.wav"]) == (
        tmp_path,
        "",
        [f"audio paths are relative to {tmp_path}"],
    )
    assert find_folder(tmp_path, ["none.wav"]) == (tmp_path, "", [])
    assert find_folder(tmp_path, ["/none.wav", ""]) == (tmp_path, "", [])
    touch(tmp_path, "other/a.wav")
    folder, prefix, (note,) = find_folder(tmp_path, ["a.wav"])
    assert (folder, prefix) == (tmp_path, "")
    assert note.startswith("several folders hold files of these names (clips, other)")


def test_rows_keep_their_source_and_get_the_path_of_the_file(tmp_path):
    touch(tmp_path, "wavs/a.flac")
    path = write(tmp_path / "c.csv", "audio,text\na,Hello\n")
    (row,) = read_rows(path)
    assert (row.source, row.file, row.path) == ("a", "wavs/a.flac", f"{tmp_path}/wavs/a.flac")
    assert [note.split(":")[0] for note in notes_of(path)[1:]] == [
        f"audio paths are relative to {tmp_path}/wavs",
        "1 audio path without a suffix, found with one, such as 'a'",
    ]
