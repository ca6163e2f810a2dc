"""Locations: URLs of known schemes and local paths, without credentials."""

from pathlib import Path

import pytest

from whisper_shard.errors import ConfigError
from whisper_shard.storage.location import Location, parse_location


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/data/train", Location("s3", "bucket", "data/train")),
        ("s3://bucket/data/train/", Location("s3", "bucket", "data/train")),
        ("S3://bucket", Location("s3", "bucket", "")),
        ("gs://bucket.example/a b?c", Location("gs", "bucket.example", "a b?c")),
        ("az://$web/data", Location("az", "$web", "data")),
        ("https://host:8443/a%20b/c", Location("https", "host:8443", "a b/c")),
        ("https://[::1]:80/a", Location("https", "[::1]:80", "a")),
        ("data/train", Location("file", "", "data/train")),
        ("talk:1/a", Location("file", "", "talk:1/a")),
        ("file:///data/a%20b", Location("file", "", "/data/a b")),
        (Path("/data"), Location("file", "", "/data")),
    ],
)
def test_a_user_names_urls_and_paths(text, expected):
    assert parse_location(text) == expected


@pytest.mark.parametrize("text", ["s3://bucket/data/train", "https://host/a%20b", "gs://b", "/data/x", "data/x"])
def test_the_text_of_a_location_names_it_again(text):
    assert str(parse_location(text)) == text
    assert parse_location(str(parse_location(text))) == parse_location(text)


def test_names_parents_and_what_lies_below():
    train = parse_location("s3://bucket/data/train")
    assert train.join("shards", "000000.tar") == train.join("shards/000000.tar")
    assert str(train.join("shards/000000.tar")) == "s3://bucket/data/train/shards/000000.tar"
    assert (train.name, str(train.parent), str(train.parent.parent)) == ("train", "s3://bucket/data", "s3://bucket")
    assert parse_location("s3://bucket").join("a") == Location("s3", "bucket", "a")
    assert parse_location("data").join("a/b").path == Path("data/a/b")
    assert parse_location("data").parent.path == Path()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3a://bucket/a", "s3a: unknown scheme; known are s3, gs, az, https, and local paths; did you mean s3://"),
        ("http://host/a", "did you mean https://"),
        ("pipe:cat secret", "pipe: unknown scheme"),
        ("hdfs://host/a", "hdfs: unknown scheme; known are"),
        ("s3://key:secret@bucket/a", "credentials do not belong in a URL"),
        ("https://user:secret@host/a", "credentials do not belong in a URL"),
        ("s3:///a", "not a name of a bucket; the form is s3://BUCKET/FOLDER"),
        ("https:///a", "not a name of a host"),
        ("https://host/a?X-Amz-Signature=secret", "a URL with a query or a fragment cannot name a folder"),
        ("s3://bucket/a//b", "empty part"),
        ("s3://bucket/../b", "empty part, '.' or '..'"),
        ("https://host/%2e%2e/b", "empty part, '.' or '..'"),
        ("s3://bucket/a\nb", "cannot be printed"),
        ("https://host/a%0Ab", "cannot be printed"),
    ],
)
def test_faults_of_a_url_are_named_without_its_secrets(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_location(text)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value).replace("cat secret", "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "..", "a/../../b", "/etc/passwd", "a//b"])
def test_nothing_joined_climbs_out(name):
    for folder in ("s3://bucket/data", "/data"):
        with pytest.raises(ConfigError, match="empty part"):
            parse_location(folder).join(name)


def test_a_url_is_no_path():
    with pytest.raises(ConfigError, match="s3://bucket/run: a URL cannot be used here; give a local path"):
        _ = parse_location("s3://bucket/run").path


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("s3://in/lists", "a/b.wav", "s3://in/lists/a/b.wav"),
        ("s3://in/lists", "../audio/b.wav", "s3://in/audio/b.wav"),
        ("s3://in", "./b.wav", "s3://in/b.wav"),
        ("s3://in", "../b.wav", "s3://in/../b.wav"),  # which does not exist
        ("https://host/a%20b", "c d.wav", "https://host/a%20b/c%20d.wav"),
        ("s3://in", "gs://other/b.wav", "gs://other/b.wav"),
        ("s3://in", "/data/b.wav", "/data/b.wav"),
        ("/lists", "a/b.wav", "/lists/a/b.wav"),
        ("/lists", "s3://in/b.wav", "s3://in/b.wav"),
        ("/lists", "file:///a%20b.wav", "/a b.wav"),
    ],
)
def test_names_in_a_list_of_files(folder, name, expected):
    assert parse_location(folder).resolve(name) == expected
