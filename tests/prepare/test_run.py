import numpy as np
import pytest
import soundfile

from tests.making import make_waveform
from tests.prepare.corpora import make_corpus, prepare, totals_of, write_csv
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.search import check_texts
from whisper_shard.dataset.summary import inspect_utterance
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.dataset.views import filter_dataset
from whisper_shard.errors import ConfigError, ManifestError, StateError
from whisper_shard.prepare.events import Done, PlanMade, Progress


def test_corpus_becomes_two_datasets(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 30, seconds=1.5)
    events = prepare(corpus, tmp_path / "out", codec="flac")
    assert [type(event) for event in events if isinstance(event, PlanMade | Done)] == [PlanMade, Done]
    progress = [event for event in events if isinstance(event, Progress)][-1]
    assert (progress.num_rows_done, progress.num_rows, progress.num_rejects) == (30, 30, 0)
    assert progress.hours_kept == pytest.approx(30 * 1.53 / 3600, rel=0.02)
    train, evaluation = (open_dataset(tmp_path / "out" / name) for name in ("train", "eval"))
    assert (train.num_utterances, evaluation.num_utterances) == (27, 3)
    texts = {*train.columns("text")["text"], *evaluation.columns("text")["text"]}
    assert texts == {f"utterance number {i}" for i in range(30)}
    assert not [fault for fault in verify_dataset(train.folder) if isinstance(fault, Fault)]


@pytest.mark.parametrize("codec", ["npy", "flac"])
def test_recordings_of_16_bits_are_stored_without_loss(tmp_path, codec):
    samples = np.random.default_rng(0).integers(-32768, 32768, 24_000, np.int16)
    samples[:2] = -32768, 32767
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, samples, 16_000, subtype="PCM_16")
    rows = [("a.wav", "Some spoken words"), ("a.flac", "Some spoken words")]
    prepare(write_csv(tmp_path / "c.csv", rows), tmp_path / "out", jobs=1, codec=codec, peak=0.0, eval_fraction=0.0)
    keys = open_dataset(tmp_path / "out/train").columns("key")["key"]
    assert len(keys) == 2
    for key in keys:
        np.testing.assert_array_equal(inspect_utterance(tmp_path / "out/train", key).samples, samples)


def test_recordings_in_which_nobody_speaks_may_be_all_there_is_and_a_view_of_them_too(tmp_path):
    for number in range(4):
        noise = 0.1 * np.random.default_rng(number).standard_normal(16_000 * (number + 2))
        soundfile.write(tmp_path / f"{number}.wav", noise, 16_000)
    corpus = write_csv(tmp_path / "c.csv", [(f"{number}.wav", "") for number in range(4)])
    with pytest.raises(ManifestError, match=r"none of its 4 rows can be used: text_too_short 4; .* --empty-texts keep"):
        prepare(corpus, tmp_path / "rejected", jobs=1, eval_fraction=0.0)
    prepare(corpus, tmp_path / "out", jobs=1, eval_fraction=0.0, empty_texts="keep")
    filter_dataset(tmp_path / "out/train", tmp_path / "view", "seconds < 3.5")
    for folder, count in ((tmp_path / "out/train", 4), (tmp_path / "view", 2)):
        data = open_dataset(folder)
        assert (data.num_utterances, data.description.empty_texts) == (count, "keep")
        check_texts(data)
        assert not [fault for fault in verify_dataset(folder) if isinstance(fault, Fault)]


def test_columns_named_like_fields_of_a_record_are_kept_under_another_name(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_waveform(1.5), 16_000)
    header = ("audios", "transcription", "source", "text", "transcript", "seconds", "row", "manifest_row", "id")
    corpus = write_csv(tmp_path / "c.csv", [("a.wav", "Some spoken words", *"abcdefg")], header=header)
    prepare(corpus, tmp_path / "out", jobs=1, eval_fraction=0.0)
    (key,) = open_dataset(tmp_path / "out/train").columns("key")["key"]
    record = inspect_utterance(tmp_path / "out/train", key).record
    assert record == {
        **{"text": "some spoken words", "transcript": "Some spoken words", "seconds": 1.5, "source": "a.wav", "row": 0},
        **{"manifest_source": "a", "manifest_text": "b", "manifest_transcript": "c", "manifest_seconds": "d"},
        **{"manifest_manifest_row": "e", "manifest_row": "f", "id": "g"},
    }


def test_prepared_config_is_written_beside_the_datasets(tmp_path):
    import tomllib

    prepare(make_corpus(tmp_path / "corpus", 2), tmp_path / "out", jobs=1, min_seconds=0.25)
    table = tomllib.loads((tmp_path / "out/prepare.toml").read_text())["prepare"]
    table = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    assert PrepareConfig(**table) == PrepareConfig(trim_db=0.0, jobs=1, min_seconds=0.25)


def test_nothing_usable_lists_the_reasons(tmp_path):
    corpus = write_csv(tmp_path / "c.csv", [("none.wav", "words enough"), ("none.wav", "few")])
    with pytest.raises(ManifestError, match=r"c.csv: none of its 2 rows can be used: .*missing_file 1"):
        prepare(corpus, tmp_path / "out", jobs=1)
    assert not (tmp_path / "out/train/dataset.json").exists()


@pytest.mark.parametrize("runs", [1, 2])
def test_a_wrong_folder_is_seen_from_the_path_that_was_tried(tmp_path, runs):
    corpus = write_csv(tmp_path / "c.csv", [("data/none.wav", "words enough")])
    tried = rf"missing_file 1; for example row 0, {tmp_path}/data/none.wav: .*; relative paths are relative to"
    for _ in range(runs):  # the second reads what the first has written down
        with pytest.raises(ManifestError, match=tried):
            prepare(corpus, tmp_path / "out", jobs=1)


def test_too_many_rejects_end_the_run_and_a_raised_limit_goes_on(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 3, extra=[("a.wav", b"bad"), ("b.wav", b"bad")])
    settings = {"jobs": 1, "eval_fraction": 0.0}
    with pytest.raises(ManifestError, match=r"2 of 5 rows are rejected, more than --max-reject-fraction 0.2 allows: "):
        prepare(corpus, tmp_path / "out", max_reject_fraction=0.2, **settings)
    events = prepare(corpus, tmp_path / "out", max_reject_fraction=0.4, **settings)
    assert totals_of(events)["train"].num_rejects == 2
    assert next(event for event in events if isinstance(event, PlanMade)).num_shards_done == 1


def test_outputs_that_cannot_be(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file: is a file, or lies below one; the output must be a folder"):
        prepare(corpus, tmp_path / "file")
    (tmp_path / "other/train").mkdir(parents=True)
    with pytest.raises(StateError, match=r"other: holds train or eval, but not from `prepare`"):
        prepare(corpus, tmp_path / "other")
    with pytest.raises(ManifestError, match=r"corpus.csv: has a header but no row"):
        prepare(write_csv(tmp_path / "corpus.csv", []), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"filters\[0\]: unknown kind 'durations'; did you mean 'duration'"):
        prepare(corpus, tmp_path / "out", filters=({"kind": "durations"},))
