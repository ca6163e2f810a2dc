import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.foreign import encode, make_index, write_tar
from tests.making import WORDS, make_dataset
from tests.s3 import BUCKET, upload_folder
from tests.train.running import tiny_config
from whisper_shard.cli.commands.score import describe_columns
from whisper_shard.config.score import ScoreConfig
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.columns import COLUMNS_SCHEMA, list_columns, table_bytes, table_location, write_columns
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.summary import inspect_dataset
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.dataset.views import filter_dataset
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import ConfigError, DatasetError, TrainingError
from whisper_shard.score import columns
from whisper_shard.score.columns import find_slice, score_columns
from whisper_shard.score.run import score_model
from whisper_shard.storage.files import list_files
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.stream.loader import open_loader
from whisper_shard.train.events import Stepped
from whisper_shard.train.loop import train_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns") / "model"
    make_tiny_whisper(folder, texts=WORDS, width=32, encoder_layers=1, decoder_layers=1, heads=2, max_seconds=2)
    return str(folder)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "BLOCK_STEPS", 2)
    return make_dataset(tmp_path / "set", np.linspace(0.3, 1.5, 11).tolist(), per_shard=4)


def run(model, dataset, progress=lambda _: None, **settings):
    values = {"write_columns": "first", "eval_batch": 2, "max_new_tokens": 6, "window": "short"}
    return score_columns(model, dataset.location, ScoreConfig(**{**values, **settings}), progress)


def table_of(dataset):
    return pq.read_table(dataset.folder / "columns/first.parquet")


def test_utterances_without_a_text_get_one(model, tmp_path):
    dataset = make_dataset(tmp_path / "mute", [0.5, 1.0], record={"text": ""})
    report = run(model, dataset)
    assert (report.num_utterances, report.num_with_text, report.wer, report.worst) == (2, 0, 0.0, ())
    assert list(describe_columns(report, "mute"))[1:] == [
        'next: whisper-shard filter mute VIEW --relabel first --where "first.avg_logprob > -0.5"'
    ]
    with pytest.raises(DatasetError, match="none of its utterances has a text; a model writes them"):
        score_model(model, dataset.location, ScoreConfig(), lambda _: None)


@pytest.mark.slow
def test_the_table_has_what_score_says_of_each_utterance(model, dataset, tmp_path):
    report = run(model, dataset)
    table = table_of(dataset)
    assert table.schema == COLUMNS_SCHEMA
    assert table.column("row").to_pylist() == list(range(11))
    assert table.column("key").to_pylist() == dataset.columns("key")["key"].tolist()
    config = ScoreConfig(window="short", eval_batch=2, max_new_tokens=6, out=str(tmp_path / "report"))
    scored = score_model(model, dataset.location.path, config)
    rows = {row["key"]: row for row in table.to_pylist()}
    for one in scored.score.utterances:
        assert rows[one.key]["word_errors"] == one.words.errors
        assert rows[one.key]["cer"] == pytest.approx(one.chars.rate)
    assert report.wer == pytest.approx(scored.score.wer)
    assert report.num_utterances == 11
    assert [row.cer for row in report.worst] == sorted((row.cer for row in report.worst), reverse=True)
    assert not (dataset.folder / "columns/first.parts").exists()


@pytest.mark.slow
def test_no_number_of_processes_changes_a_byte(model, dataset, tmp_path):
    run(model, dataset)
    alone = (dataset.folder / "columns/first.parquet").read_bytes()
    other = make_dataset(tmp_path / "other", np.linspace(0.3, 1.5, 11).tolist(), per_shard=4)
    missing = [run(model, other, slice=f"{number}/3").num_missing for number in (3, 1, 2)]
    assert missing == [2, 1, 0]
    assert (other.folder / "columns/first.parquet").read_bytes() == alone


def test_what_was_done_before_a_kill_is_not_done_again(model, dataset):
    class KilledError(Exception):
        pass

    def kill(event):
        if event.num_done > 5:
            raise KilledError

    with pytest.raises(KilledError):
        run(model, dataset, kill)
    assert list_columns(dataset) == []
    assert len(list((dataset.folder / "columns/first.parts").iterdir())) == 1
    events = []
    run(model, dataset, events.append)
    assert [event.num_done for event in events] == [6, 8, 10, 11]
    run(model, dataset, events.append)  # all is there
    assert len(events) == 4


@pytest.mark.slow
def test_blocks_of_other_settings_are_not_mixed_in(model, dataset):
    run(model, dataset, slice="1/3")
    report = run(model, dataset, max_new_tokens=3, slice="2/3")
    assert report.num_missing == 2
    run(model, dataset, max_new_tokens=3)
    ((info, is_current),) = list_columns(dataset)
    assert info.settings["max_new_tokens"] == 3 and is_current
    assert info.model == model


@pytest.mark.slow
def test_confidence_is_that_of_a_pass_over_the_hypothesis(model, dataset):
    from whisper_shard.inference.language import language_tokens
    from whisper_shard.model.labels import Labeler
    from whisper_shard.model.log_mel import LogMel
    from whisper_shard.model.whisper import load_whisper
    from whisper_shard.model.window import fit_window, longest_window
    from whisper_shard.stream.loader import open_evaluation

    run(model, dataset, window="full")
    rows = {row["key"]: row for row in table_of(dataset).to_pylist()}
    loaded = load_whisper(model)
    network, labeler = loaded.model.eval(), Labeler(loaded.tokenizer, "en")
    always = network.generation_config.suppress_tokens or []
    begin = network.generation_config.begin_suppress_tokens or []
    for batch in open_evaluation(dataset, batch_size=1):
        waveform = fit_window(batch.waveforms, longest_window(network))
        prefix = list(labeler.prefix_ids("en", "transcribe"))
        row, ids, sums = rows[batch.keys[0]], list(prefix), []
        with torch.inference_mode():
            log_mel = LogMel(loaded.n_mels)(waveform)
            while len(sums) < 6 and (len(ids) == len(prefix) or ids[-1] != labeler.end_id):
                logits = network(input_features=log_mel, decoder_input_ids=torch.tensor([ids])).logits[0]
                last = logits[-1].clone()
                last[list(always)] = -torch.inf
                if len(ids) == len(prefix):
                    last[list(begin)] = -torch.inf
                ids.append(int(last.argmax()))
                sums.append(float(last.log_softmax(0).max()))
        assert row["avg_logprob"] == pytest.approx(sum(sums) / len(sums), abs=1e-3)
        with torch.inference_mode():
            start = network(input_features=log_mel, decoder_input_ids=torch.tensor([prefix[:1]])).logits[0, 0]
        tokens = language_tokens(labeler.tokenizer.get_vocab())
        shares = dict(zip(tokens, start[list(tokens.values())].softmax(0).tolist(), strict=True))
        assert row["language_probability"] == pytest.approx(shares["en"], abs=1e-4)
        assert row["heard_language"] == max(shares, key=shares.get)


def test_an_english_model_says_nothing_of_languages(english_folder, dataset):
    run(str(english_folder), dataset, limit=2)
    table = table_of(dataset)
    assert len(table) == 2
    assert table.column("language_probability").null_count == table.column("heard_language").null_count == 2


@pytest.mark.slow
def test_a_condition_joins_them_and_the_view_pins_them(model, dataset, tmp_path):
    run(model, dataset)
    table = table_of(dataset)
    border = sorted(table.column("avg_logprob").to_pylist())[4]
    (made,) = filter_dataset(dataset.location, tmp_path / "view", f"first.avg_logprob > {border!r} and seconds > 0.5")
    view = open_dataset(tmp_path / "view")
    lengths = dataset.columns("num_samples")["num_samples"]
    expected = [
        row["key"]
        for row, n in zip(table.to_pylist(), lengths, strict=True)
        if row["avg_logprob"] > border and n > 8000
    ]
    assert view.columns("key")["key"].tolist() == expected and made.num_utterances == len(expected)
    ((info, _),) = list_columns(dataset)
    assert view.description.view.columns == {"first": info.sha256}
    assert inspect_dataset(dataset.location.path).columns == ((info, True),)
    # A view takes the columns of its dataset, too.
    filter_dataset(tmp_path / "view", tmp_path / "again", "len(first.hypothesis) >= 0")
    assert open_dataset(tmp_path / "again").num_utterances == len(expected)


@pytest.mark.slow
def test_what_was_not_scored_has_no_value(model, dataset, tmp_path):
    run(model, dataset, limit=4)
    (made,) = filter_dataset(dataset.location, tmp_path / "view", "first.cer >= 0")
    assert made.num_utterances == 4
    assert made.dropped == {"first.cer >= 0 (no value)": 7}


@pytest.mark.slow
def test_columns_of_a_changed_dataset_are_refused(model, dataset, tmp_path):
    run(model, dataset)
    content = json.loads((dataset.folder / "dataset.json").read_text())
    (dataset.folder / "dataset.json").write_text(json.dumps(content | {"more": 1}))
    message = r"set/columns/first.json: was made before .*set was changed; score again with --write-columns first"
    with pytest.raises(DatasetError, match=message):
        filter_dataset(dataset.location, tmp_path / "view", "first.cer < 0.4")
    assert [is_current for _, is_current in list_columns(dataset)] == [False]
    run(model, dataset)
    assert [is_current for _, is_current in list_columns(dataset)] == [True]


@pytest.mark.slow
def test_a_changed_table_is_refused(model, dataset, tmp_path):
    run(model, dataset)
    path = dataset.folder / "columns/first.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"first.parquet: has sha256 .*, first.json says .*; score again"):
        filter_dataset(dataset.location, tmp_path / "view", "first.cer < 0.4")
    path.unlink()
    with pytest.raises(DatasetError, match=r"first.parquet: is missing or too long; score again"):
        filter_dataset(dataset.location, tmp_path / "view", "first.cer < 0.4")
    (dataset.folder / "columns/first.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"first.json: cannot be parsed .*; score again with --write-columns first"):
        filter_dataset(dataset.location, tmp_path / "view", "first.cer < 0.4")


@pytest.mark.slow
def test_names_that_do_not_exist_are_named(model, dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"set has no columns 'first' beside it; make them by `whisper-shard score"):
        filter_dataset(dataset.location, tmp_path / "view", "first.cer < 0.4")
    run(model, dataset)
    with pytest.raises(ConfigError, match=r"no columns 'fisrt' beside it; did you mean 'first'\?"):
        filter_dataset(dataset.location, tmp_path / "view", "fisrt.cer < 0.4")
    with pytest.raises(ConfigError, match=r"there is no column first\.cerr; did you mean 'first\.cer'|first\.cerr"):
        filter_dataset(dataset.location, tmp_path / "view", "first.cerr < 0.4")
    with pytest.raises(ConfigError, match=r"--write-columns '1st': use letters, digits and _"):
        run(model, dataset, write_columns="1st")


def delivered(dataset, *, rank=0, world=1, workers=0, state=None):
    config = StreamConfig(batch_size=2, seed=5, workers=workers)
    loader = open_loader(dataset, config, epochs=1, rank=rank, world=world, state=state)
    found = []
    for batch in loader:
        found += [
            ((batch.step, key), text, language, task, loader.state_after(batch))
            for key, text, language, task in zip(batch.keys, batch.texts, batch.languages, batch.tasks, strict=True)
            if key
        ]
    return found


@pytest.fixture
def relabeled(model, tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "BLOCK_STEPS", 2)
    record = {"language": "de", "task": "translate", "prompt": "before"}
    seconds = np.linspace(0.3, 1.5, 11).tolist()
    data = make_dataset(tmp_path / "set", seconds, per_shard=4, text="of the shard", record=record)
    run(model, data)
    (made,) = filter_dataset(data.location, tmp_path / "view", relabel="first")
    return data, open_dataset(tmp_path / "view"), made


@pytest.mark.slow
def test_a_relabeled_view_trains_on_the_hypotheses(relabeled):
    data, view, made = relabeled
    texts = {row["key"]: row["hypothesis"] for row in table_of(data).to_pylist() if row["hypothesis"]}
    assert made.num_utterances == len(texts) > 5
    assert view.description.view.relabeled_by == "first"
    found = delivered(view)
    assert {key: text for (_, key), text, *_ in found} == texts
    assert {(language, task) for _, _, language, task, _ in found} == {("de", "translate")}
    assert view.columns("num_chars")["num_chars"].tolist() == [len(text) for text in view.columns("text")["text"]]
    batches = open_loader(view, StreamConfig(batch_size=2, workers=0), epochs=1)
    assert {prompt for batch in batches for prompt in batch.prompts if prompt} == {"before"}, "those of the dataset"
    # Exact for any ranks and workers, and after a resume.
    parts = [delivered(view, rank=rank, world=2, workers=rank) for rank in (0, 1)]
    assert sorted(row[:4] for part in parts for row in part) == sorted(row[:4] for row in found)
    steps = [row[0][0] for row in found]
    half = next(i for i, (one, two) in enumerate(pairwise(steps), start=1) if two > one and i >= 4)
    assert [row[:4] for row in delivered(view, state=found[half - 1][4])] == [row[:4] for row in found[half:]]


@pytest.mark.slow
def test_a_relabeled_view_is_sound_and_stays_relabeled(relabeled, model, tmp_path):
    _, view, _ = relabeled
    assert [event for event in verify_dataset(view.location) if isinstance(event, Fault)] == []
    filter_dataset(view.location, tmp_path / "less", "seconds > 0.5")
    less = open_dataset(tmp_path / "less")
    assert less.description.view.relabeled_by == "first"
    texts = dict(zip(*view.columns("key", "text").values(), strict=True))
    assert all(texts[key] == text for (_, key), text, *_ in delivered(less))
    config = ScoreConfig(window="short", eval_batch=2, max_new_tokens=6, out=str(tmp_path / "report"))
    assert score_model(model, tmp_path / "less", config).score.wer == 0  # against its own hypotheses


@pytest.mark.slow
def test_verify_finds_a_text_that_does_not_fit_its_length(relabeled, tmp_path, monkeypatch):
    from whisper_shard.dataset.index import IndexReader

    _, view, _ = relabeled
    rows = IndexReader.rows

    def changed(self, shard, *names):
        found = rows(self, shard, *names)
        return found | {"text": [text + "x" for text in found["text"]]} if "text" in names else found

    monkeypatch.setattr(IndexReader, "rows", changed)
    details = {event.detail for event in verify_dataset(view.location) if isinstance(event, Fault)}
    assert any("its text has" in detail and "index.parquet says" in detail for detail in details)


def test_relabeling_needs_columns(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"has no columns 'first' beside it"):
        filter_dataset(dataset.location, tmp_path / "view", relabel="first")
    with pytest.raises(ConfigError, match=r"--relabel 'a-b': use letters"):
        filter_dataset(dataset.location, tmp_path / "view", relabel="a-b")
    with pytest.raises(ConfigError, match=r"--where is empty"):
        filter_dataset(dataset.location, tmp_path / "view")


@pytest.mark.parametrize("text", ["5/4", "0/2", "-1/2", "1", "a/b", "1/0"])
def test_slices_that_do_not_exist(text):
    with pytest.raises(ConfigError, match=rf"--slice {text}: must be I/N with 1 <= I <= N"):
        ScoreConfig(write_columns="first", slice=text)


def test_slices_come_from_the_environment(monkeypatch):
    assert find_slice("") == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert find_slice("") == (3, 4) and find_slice("1/2") == (0, 2)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ConfigError, match=r"RANK is '4' and WORLD_SIZE '4' in the environment"):
        find_slice("")
    with pytest.raises(ConfigError, match="--slice shares out the work of --write-columns"):
        ScoreConfig(slice="1/2")


def test_an_empty_dataset_has_no_columns(model, tmp_path):
    from whisper_shard.dataset.writer import write_dataset

    (tmp_path / "empty").mkdir()
    write_dataset(tmp_path / "empty", shards=[], tables=[], meta={})
    with pytest.raises(TrainingError, match="the dataset is empty"):
        run(model, open_dataset(tmp_path / "empty"))


@pytest.mark.slow
def test_training_takes_the_texts_of_a_relabeled_view(relabeled, model, tmp_path):
    data, _, _ = relabeled
    table = table_of(data)
    texts = pa.array(data.columns("text")["text"].tolist())
    same = table.set_column(2, COLUMNS_SCHEMA.field("hypothesis"), texts)
    write_columns(data, "same", same, model=model, fingerprint="", settings={})
    filter_dataset(data.location, tmp_path / "same", "len(first.hypothesis) > 0", relabel="same")
    make_dataset(tmp_path / "eval", [0.4, 0.9], seed=9, prefix="eval", record={"language": "de", "task": "translate"})
    filter_dataset(data.location, tmp_path / "plain", "len(first.hypothesis) > 0")
    losses = {}
    for name in ("plain", "same", "view"):
        events = []
        changes = {"model": model, "eval": str(tmp_path / "eval"), "max_steps": 1, "batch_size": 4, "augment": ()}
        config = tiny_config(tmp_path, **changes)
        train_model(tmp_path / name, tmp_path / f"run-{name}", config, events.append)
        losses[name] = [event.loss for event in events if isinstance(event, Stepped)]
    assert losses["same"] == losses["plain"] != losses["view"]
    assert len(losses["view"]) == 1


@pytest.mark.long
def test_the_commands(model, dataset, tmp_path):
    def shell(*args):
        command = [sys.executable, "-m", "whisper_shard", *map(str, args)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr

    said = shell("score", model, dataset.folder, "--write-columns", "first", "--max-new-tokens", 6, "--window", "short")
    assert "columns/first.parquet: 11 utterances, WER" in said
    assert "the highest character error rates" in said
    assert "columns first: 11 utterances scored by" in shell("inspect", dataset.folder)
    said = shell("filter", dataset.folder, tmp_path / "view", "--relabel", "first")
    assert "view: " in said
    assert "texts: hypotheses of the columns first" in shell("inspect", tmp_path / "view")
    assert "intact" in shell("verify", tmp_path / "view")


@pytest.mark.slow
def test_columns_in_a_bucket(s3, model, dataset, tmp_path):
    url = f"s3://{BUCKET}/columns/set"
    upload_folder(dataset.folder, url)
    remote = open_dataset(url)
    assert run(model, remote, slice="2/2").num_missing == 2
    assert run(model, remote, slice="1/2").num_missing == 0
    run(model, dataset)
    assert ObjectStore().get(table_location(remote, "first"), max_bytes=1 << 20) == table_bytes(table_of(dataset))
    filter_dataset(url, f"s3://{BUCKET}/columns/view", relabel="first")
    view = open_dataset(f"s3://{BUCKET}/columns/view")
    texts = {row["key"]: row["hypothesis"] for row in table_of(dataset).to_pylist() if row["hypothesis"]}
    assert {key: text for (_, key), text, *_ in delivered(view)} == texts
    left = list(list_files(remote.location.join("columns"), ObjectStore()))
    assert left == ["first.json", "first.parquet"]


def test_columns_of_tars_of_others(model, tmp_path):
    members = {}
    for number in range(4):
        members[f"u{number}.wav"] = encode(0.3 + number / 10, "wav", rate=22_050, seed=number)
        members[f"u{number}.txt"] = f"this is number {number}".encode()
    write_tar(tmp_path / "tars/0.tar", members)
    make_index(tmp_path / "tars", tmp_path / "index")
    run(model, open_dataset(tmp_path / "index"))
    filter_dataset(tmp_path / "index", tmp_path / "view", relabel="first")
    rows = pq.read_table(tmp_path / "index/columns/first.parquet").to_pylist()
    found = {key: text for (_, key), text, *_ in delivered(open_dataset(tmp_path / "view"))}
    assert found == {row["key"]: row["hypothesis"] for row in rows if row["hypothesis"]} and found
    assert [event for event in verify_dataset(tmp_path / "view") if isinstance(event, Fault)] == []
