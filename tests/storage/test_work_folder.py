from pathlib import Path

from whisper_shard.storage.location import parse_location
from whisper_shard.storage.work_folder import cache_folder, work_folder


def test_work_folders_are_below_the_cache_and_differ_by_kind_and_location(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/whisper-shard")
    found = work_folder("prepare", parse_location("s3://corpora/german"))
    assert found.parent == Path("/cache/whisper-shard/prepare") and found.name.startswith("german-")
    others = {
        work_folder("runs", parse_location("s3://corpora/german")),
        work_folder("prepare", parse_location("gs://corpora/german")),
    }
    assert found not in others and len(others) == 2


def test_without_xdg_cache_home_the_cache_is_in_the_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/whisper-shard")
