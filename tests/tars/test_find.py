import os
import re
from pathlib import Path

import pytest

from tests.foreign import write_jsonl
from tests.s3 import BUCKET
from whisper_shard.config.index import IndexConfig
from whisper_shard.dataset.description import name_from
from whisper_shard.errors import ConfigError, ManifestError
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.tars.find import expand, find_tars, find_texts


@pytest.fixture
def folder(tmp_path):
    for name in ("audio_0.tar", "audio_1.tar", "audio_10.tar", "notes.txt", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(pattern):
    return [tar.location.name for tar in find_tars(str(pattern), ObjectStore())]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a_{8..11}.tar", ["a_8.tar", "a_9.tar", "a_10.tar", "a_11.tar"]),
        ("{00..02}", ["00", "01", "02"]),
        ("b_OP_0..1_CL_.tar", ["b0.tar", "b1.tar"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("plain.tar", ["plain.tar"]),
        ("$HOME {3..2}", []),
    ],
)
def test_ranges_and_lists(pattern, expected):
    assert list(expand(pattern)) == expected


def test_endless_ranges_are_refused():
    with pytest.raises(ManifestError, match=r"\{0\.\.9999999999\}: 10000000000 tars, limit 300000"):
        list(expand("{0..9999999999}"))


def test_tars_by_name_folder_and_pattern(folder):
    assert names(folder / "audio_1.tar") == ["audio_1.tar"]
    assert names(folder) == names(folder / "*.tar") == ["audio_0.tar", "audio_1.tar", "audio_10.tar"]
    assert names(folder / "audio_{1..1}.tar") == ["audio_1.tar"]
    assert names(f"{{{folder}/audio_1.tar,{folder}}}") == ["audio_1.tar", "audio_0.tar", "audio_10.tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("audio_{0..3}.tar", r"audio_2\.tar: no such tar"),
        ("x.tar.gz", r"x\.tar\.gz: is not named \*\.tar; unpack what is compressed"),
        ("*.zip", r"\*\.zip: no tar here"),
        ("empty", r"empty: no tar here; give a tar, a folder of tars, or a pattern in quotes"),
    ],
)
def test_tars_that_are_not_there(folder, pattern, message):
    (folder / "empty").mkdir()
    with pytest.raises(ManifestError, match=message):
        names(folder / pattern)


def test_commands_are_not_run():
    with pytest.raises(ConfigError, match=r"pipe: unknown scheme"):
        names("pipe:touch /tmp/x.tar")


def test_tars_in_object_storage(s3):
    store = ObjectStore()
    for name in ("b.tar", "a.tar", "note.txt"):
        store.put(parse_location(f"s3://{BUCKET}/find/{name}"), b"12345")
    tars = find_tars(f"s3://{BUCKET}/find", store)
    assert [(tar.location.name, tar.num_bytes) for tar in tars] == [("a.tar", 5), ("b.tar", 5)]
    assert all(tar.version for tar in tars)
    assert find_tars(f"s3://{BUCKET}/find/{{b,a}}.tar", store) == tars[::-1]
    with pytest.raises(ManifestError, match=rf"s3://{BUCKET}/find/c\.tar: no such tar"):
        find_tars(f"s3://{BUCKET}/find/c.tar", store)


def test_local_and_remote_tars_are_not_mixed(folder, s3):
    ObjectStore().put(parse_location(f"s3://{BUCKET}/mixed.tar"), b"12345")
    with pytest.raises(ManifestError, match=r"some tars are local and some are not"):
        find_tars(f"{{{folder}/audio_0.tar,s3://{BUCKET}/mixed.tar}}", ObjectStore())


def texts_of(folder, manifest):
    tars = [tar.location for tar in find_tars(str(folder), ObjectStore())]
    (folder / "parts").mkdir()
    return [text.path for text in find_texts(tars, IndexConfig(manifest=str(manifest)), folder / "parts")]


def test_one_manifest_is_split_by_the_numbers_of_the_tars(folder):
    lines = [{"audio_filepath": "a", "shard_id": shard} for shard in (10, 0, 1, 10)]
    paths = texts_of(folder, write_jsonl(folder / "tarred.json", lines))
    assert [len(path.read_text().splitlines()) for path in paths] == [1, 1, 2]


def test_manifests_find_their_tars(folder):
    for number in (0, 1, 10):
        write_jsonl(folder / f"manifest_{number}.json", [])
    assert texts_of(folder, folder / "manifest_*.json") == [folder / f"manifest_{n}.json" for n in (0, 1, 10)]


def test_a_single_tar_and_its_manifest_need_no_number(tmp_path):
    (tmp_path / "set.tar").touch()
    path = write_jsonl(tmp_path / "set.json", [])
    assert texts_of(tmp_path, path) == [path]


@pytest.mark.parametrize(
    ("manifests", "given", "message"),
    [
        ({"m_0.json": [], "m_1.json": []}, "m_*.json", r"tars and manifests have different numbers, such as 10;"),
        ({"m.json": [{"shard_id": 0}]}, "m.json", r"tars and manifests have different numbers, such as "),
        ({"m.json": [], "n.json": []}, "{m,n}.json", r"m\.json: its name has no number such as _12"),
        ({}, "m.json", r"m\.json: no such manifest; give --manifest a file of JSON lines"),
    ],
)
def test_manifests_that_do_not_fit(folder, manifests, given, message):
    for name, lines in manifests.items():
        write_jsonl(folder / name, lines)
    with pytest.raises(ManifestError, match=message):
        texts_of(folder, folder / given)


def test_cuts_for_some_tars_only(tmp_path):
    for name in ("recording.0.tar", "recording.1.tar", "cuts.0.jsonl.gz"):
        (tmp_path / name).touch()
    tars = [parse_location(tmp_path / f"recording.{n}.tar") for n in (0, 1)]
    with pytest.raises(ManifestError, match=r"recording\.1\.tar: has no file of cuts beside it, but other tars have"):
        find_texts(tars, IndexConfig(), tmp_path)


def test_names_are_relative_where_folders_are_shared(tmp_path):
    tar = parse_location(tmp_path / "tars/a.tar")
    assert name_from(parse_location(tmp_path / "index"), tar) == "../tars/a.tar"
    assert name_from(parse_location(Path("/nowhere/index")), tar) == str(tar)
    assert name_from(parse_location(tmp_path), parse_location("s3://b/c.tar")) == "s3://b/c.tar"
    (tmp_path / "far").mkdir()
    os.symlink(tmp_path / "far", tmp_path / "link")
    assert re.fullmatch(r"\.\./tars/a\.tar", name_from(parse_location(tmp_path / "link"), tar))
