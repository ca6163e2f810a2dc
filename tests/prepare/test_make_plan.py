import json

import pytest

from tests.prepare.corpora import fingerprint, prepare, start_driver, totals_of, write_csv
from tests.prepare.hostile import COUNT
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import StateError
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.prepare import make_plan as plans
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.prepare.spool import spool_manifest


def make_plan(tmp_path, count, *, shard_rows=32, **settings):
    config = PrepareConfig(**settings)
    output = OutputFolder(path=tmp_path / "out")
    output.state.mkdir(parents=True)
    corpus = write_csv(tmp_path / "corpus.csv", [(f"{i}.wav", f"text {i}") for i in range(count)])
    manifest = open_manifest(corpus, config)
    spools = {"train": spool_manifest(manifest, output.state / "train.spool", config)}
    return manifest, output, plans.write_plan(output, spools, config=config, shard_rows=shard_rows)


def test_every_row_is_in_one_shard_of_one_split(tmp_path):
    _, output, plan = make_plan(tmp_path, 500)
    train, evaluation = plan.splits
    assert (evaluation.num_rows, train.num_rows, plan.num_rows) == (50, 450, 500)
    assert (evaluation.num_shards, train.num_shards, plan.num_shards) == (2, 15, 17)
    rows = [row for split in plan.splits for s in split.shards() for row in s.read_rows().column("row").to_pylist()]
    assert sorted(rows) == list(range(500))
    *_, last = train.shards()
    assert last.tar == output.path / "train/shards/000014.tar"
    assert last.receipt == output.path / ".prepare/receipts/train/000014.json"


def test_shards_are_as_large_as_asked_but_never_too_few():
    assert plans.choose_shard_rows(10_000_000, 318_000, 256) == 790
    assert plans.choose_shard_rows(3_000, 30_000, 256) == 180
    assert plans.choose_shard_rows(10, 30_000, 256) == 32
    assert plans.choose_shard_rows(10_000, 0, 1) == 480


def spool_rows(path, count, **settings):
    corpus = write_csv(path, [(f"{i}.wav", f"text {i}") for i in range(count)])
    config = PrepareConfig(**settings)
    return spool_manifest(open_manifest(corpus, config), path.with_suffix(".spool"), config)


@pytest.mark.parametrize(
    ("count", "fraction", "ranks"),
    [
        (100, 0.1, {"train": range(10, 100), "eval": range(10)}),
        (1, 0.5, {"train": range(1)}),
        (100, 0.0, {"train": range(100)}),
    ],
)
def test_evaluation_set_is_split_off(tmp_path, count, fraction, ranks):
    assert plans.split_ranks({"train": spool_rows(tmp_path / "c.csv", count, eval_fraction=fraction)}) == ranks


def test_evaluation_set_of_its_own(tmp_path):
    train, evaluation = (
        spool_rows(tmp_path / name, count, eval_fraction=0.5, eval_corpus="e.csv")
        for name, count in (("t.csv", 7), ("e.csv", 3))
    )
    assert plans.split_ranks({"train": train, "eval": evaluation}) == {"train": range(7), "eval": range(3)}


def test_plan_is_found_again_and_refused_for_other_settings(tmp_path):
    corpus, output, plan = make_plan(tmp_path, 50)
    config = PrepareConfig(jobs=7, decode_timeout_seconds=3.0)
    assert plans.open_plan(output, {"train": corpus}, config) == plan
    with pytest.raises(StateError, match=r"another configuration: codec was \"npy\", is \"flac\"; choose another"):
        plans.open_plan(output, {"train": corpus}, PrepareConfig(codec="flac"))


@pytest.mark.parametrize("damage", ["{", "[]", "null", '{"config": {}, "manifests": {}}'])
def test_damaged_plan_is_named(tmp_path, damage):
    corpus, output, _ = make_plan(tmp_path, 5)
    output.plan.write_text(damage)
    with pytest.raises(StateError, match=r"plan.json: damaged .*give --rebuild"):
        plans.open_plan(output, {"train": corpus}, PrepareConfig())


def test_plan_of_another_version_does_not_count(tmp_path):
    corpus, output, _ = make_plan(tmp_path, 5)
    content = json.loads(output.plan.read_text())
    output.plan.write_text(json.dumps(content | {"version": plans.OUTPUT_VERSION - 1}))
    assert plans.open_plan(output, {"train": corpus}, PrepareConfig()) is None
    del content["config"]["channel"]  # a setting that did not exist then is no other configuration
    output.plan.write_text(json.dumps(content | {"version": plans.OUTPUT_VERSION - 1}))
    assert plans.open_plan(output, {"train": corpus}, PrepareConfig()) is None
    with pytest.raises(StateError, match=r"another configuration: codec was \"npy\", is \"flac\"; choose another"):
        plans.open_plan(output, {"train": corpus}, PrepareConfig(codec="flac"))


COUNTING = ({"kind": "tests.prepare.hostile:CountingDecoder"},)


def write_counting(folder, count):
    """Write a manifest of recordings that count how often they are decoded; return it."""
    (folder / "decoded").mkdir(parents=True)
    for i in range(count):
        (folder / f"{i}.wav").write_bytes(COUNT + str(folder / "decoded" / str(i)).encode())
    return write_csv(folder / "corpus.csv", [(f"{i}.wav", f"utterance number {i}") for i in range(count)])


def decoded(folder):
    return [path.read_text() for path in (folder / "decoded").iterdir()]


@pytest.mark.parametrize("eval_fraction", [0.0, 0.2, 0.9])
def test_no_recording_is_decoded_twice(tmp_path, eval_fraction):
    corpus = write_counting(tmp_path, 100)
    (tmp_path / "7.wav").write_bytes(b"no audio")
    totals = totals_of(prepare(corpus, tmp_path / "out", decoders=COUNTING, eval_fraction=eval_fraction))
    assert sum(split.num_utterances for split in totals.values()) == 99
    assert sum(split.num_rejects for split in totals.values()) == 1
    assert decoded(tmp_path) == ["."] * 99


def test_the_rows_of_an_evaluation_corpus_are_not_mistaken_for_those_of_the_sample(tmp_path):
    corpus, other = write_counting(tmp_path / "a", 40), write_counting(tmp_path / "b", 40)
    prepare(corpus, tmp_path / "out", decoders=COUNTING, eval_corpus=str(other))
    assert decoded(tmp_path / "a") == decoded(tmp_path / "b") == ["."] * 40


@pytest.mark.slow
def test_a_run_that_makes_the_plan_writes_the_bytes_of_one_that_finds_it(tmp_path):
    corpus = write_counting(tmp_path, 100)
    prepare(corpus, tmp_path / "out", decoders=COUNTING)
    driver = start_driver(corpus, tmp_path / "killed", step="plan.renamed", decoders=COUNTING)
    driver.communicate()
    assert (tmp_path / "killed/.prepare/plan.json").exists()
    assert not list((tmp_path / "killed").glob("*/shards/*"))
    prepare(corpus, tmp_path / "killed", decoders=COUNTING)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "out")
