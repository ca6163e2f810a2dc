import json

import pytest

from tests.making import make_dataset
from whisper_shard.dataset.description import MAX_BYTES, has_own_digest, read_description
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import sha256_of_file


@pytest.fixture
def folder(tmp_path):
    return make_dataset(tmp_path / "out/train", [0.3, 0.2, 0.4], per_shard=2).folder


def change(folder, **fields):
    """Replace fields of dataset.json."""
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def shard(**fields):
    return {"name": "shards/000000.tar", "num_bytes": 1, "sha256": "0" * 64, "num_utterances": 3, **fields}


def test_fields_are_those_that_were_written(folder):
    description, content = read_description(folder), json.loads((folder / "dataset.json").read_text())
    assert [s.name for s in description.shards] == ["shards/000000.tar", "shards/000001.tar"]
    assert (description.totals.num_utterances, description.totals.num_samples) == (3, 14_400)
    assert (description.index.sha256, description.lengths.sha256) == tuple(
        sha256_of_file(folder / name) for name in ("index.parquet", "lengths.arrow")
    )
    assert (description.codec, description.rejects, description.files) == ("npy", {}, {})
    assert description.digest == content["digest"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format_version": 9}, r"format version 9, this program reads 1"),
        ({"format_version": "1"}, r"not a dataset description \(Expected `int`, got `str` - at `\$.format_version`\)"),
        ({"totals": {}}, r"not a dataset description \(.* missing required field `num_utterances`"),
        ({"totals": {"num_utterances": 4, "num_samples": 1}}, r"4 utterances in all, but 3 in its shards"),
        ({"totals": {"num_utterances": 3, "num_samples": 1e300}}, r"Expected `int`, got `float`"),
        ({"shards": 3}, r"not a dataset description"),
        ({"shards": [None]}, r"Expected `object`, got `null` - at `\$.shards\[0\]`"),
        ({"index": {"sha256": "00"}}, r"not a dataset description \(.*sha256"),
        ({"index": {"sha256": "0" * 64}}, r"missing required field `num_bytes`"),
        ({"index": None}, r"Expected `object`, got `null`"),
        ({"lengths": [1]}, r"Expected `object \| null`, got `array`"),
        ({"codec": "mp3"}, r"Invalid enum value 'mp3'"),
        ({"rejects": {"too_short": None}}, r"Expected `int`, got `null`"),
        ({"files": {"../x": {"sha256": "0" * 64, "num_bytes": 1}}}, r"matching regex .* at `key` in `\$.files`"),
        ({"shards": [shard(name="shards/../../x")]}, r"matching regex .* at `\$.shards\[0\].name`"),
        ({"shards": [shard(num_bytes=-1)]}, r"Expected `int` >= 0 - at `\$.shards\[0\].num_bytes`"),
        ({"shards": [shard(num_bytes=10**30)]}, r"Expected `int` <= \d+ - at `\$.shards\[0\].num_bytes`"),
        ({"shards": [shard(num_utterances=2**31)]}, r"Expected `int` <= 2147483647"),
        ({"shards": [shard(sha256="x")]}, r"matching regex .* at `\$.shards\[0\].sha256`"),
    ],
)
def test_impossible_values_are_refused(folder, fields, message):
    change(folder, **fields)
    with pytest.raises(DatasetError, match=message):
        read_description(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"[" * 200_000,
        b'{"format_version":' * 100_000,
        b'{"\\ud800": 1}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_description_is_refused_in_one_line(folder, content):
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"^[^\n]*dataset.json: not a dataset description \([^\n]+\); prepare the"
    ) as caught:
        read_description(folder)
    assert "\n" not in str(caught.value)


def test_nesting_in_fields_that_nobody_reads_is_refused_too(folder):
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text[:-2] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(DatasetError, match=r"not a dataset description .*recursion"):
        read_description(folder)


def test_a_description_that_is_too_long_is_not_read(folder):
    with (folder / "dataset.json").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DatasetError, match=r"dataset.json: has 67108865 bytes, more than 67108864"):
        read_description(folder)


def test_missing_dataset_and_pinned_digest(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"no finished dataset here .*did you mean .*out/train\?"):
        read_description(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"run `whisper-shard prepare` first"):
        read_description(tmp_path)
    with pytest.raises(DatasetError, match=r"sha256 is .*, but 1234 is required"):
        read_description(folder, sha256="1234")
    assert read_description(folder, sha256=sha256_of_file(folder / "dataset.json")) == read_description(folder)
    with pytest.raises(DatasetError, match=r"trian: no finished dataset here .*did you mean 'train'\?"):
        read_description(folder.with_name("trian"))


def test_the_digest_is_that_of_everything_else(folder):
    content, digest = (folder / "dataset.json").read_bytes(), read_description(folder).digest
    assert has_own_digest(content, digest)
    assert not has_own_digest(content.replace(b"14400", b"14401"), digest)
    assert not has_own_digest(content.replace(b'"digest"', b'"Digest"'), digest)
    assert not has_own_digest(content, "0" * 64)
