import json
import os
import shutil

import numpy as np
import pytest
import soundfile

from tests.audio.talks import make_talk
from tests.making import make_waveform
from tests.s3 import BUCKET, upload_folder
from whisper_shard.cli.main import run
from whisper_shard.config.transcribe import TranscribeConfig
from whisper_shard.errors import ConfigError, ModelError
from whisper_shard.transcribe import events
from whisper_shard.transcribe.run import transcribe_recordings

GREEDY = {"temperatures": (0.0,), "max_new_tokens": 30}


@pytest.fixture
def talks(tmp_path):
    folder = tmp_path / "talks"
    (folder / "deep").mkdir(parents=True)
    soundfile.write(folder / "a.wav", make_waveform(35.0, seed=1), 16_000)
    stereo = np.stack([make_waveform(3.0, seed=2)] * 2, axis=1)
    soundfile.write(folder / "deep" / "b.flac", stereo, 44_100)
    return folder


def collect(model, recordings, **settings):
    seen = []
    report = transcribe_recordings(
        str(model), [str(each) for each in recordings], TranscribeConfig(**{**GREEDY, **settings}), seen.append
    )
    return report, seen


def names(seen, kind):
    return [event.name for event in seen if isinstance(event, kind)]


def test_a_folder_is_transcribed_and_then_kept(tiny_folder, talks, tmp_path):
    out = tmp_path / "out"
    settings = {"output": str(out), "format": ("txt", "json")}
    report, seen = collect(tiny_folder, [talks], **settings)
    assert names(seen, events.Finished) == ["a.wav", "deep/b.flac"]
    assert report.audio_seconds == pytest.approx(35.0 + 3.0 * 16_000 / 44_100, abs=0.05)
    content = json.loads((out / "a.json").read_text())
    heard = [segment for event in seen if isinstance(event, events.Heard) for segment in event.segments]
    assert heard
    assert [segment["text"] for segment in content["segments"]] == [
        segment.text for event in seen if isinstance(event, events.Heard) and event.name == "a.wav"
        for segment in event.segments
    ]  # fmt: skip
    assert content["language"] == "en"
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}

    report, seen = collect(tiny_folder, [talks], **settings, batch=2, threads=1)
    assert (report.num_kept, report.num_failed) == (2, 0)
    assert names(seen, events.Kept) == ["a.wav", "deep/b.flac"]
    assert not names(seen, events.Begun)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == times


@pytest.mark.slow
def test_words_have_times_in_json(tiny_folder, talks, tmp_path):
    settings = {"output": str(tmp_path / "out"), "format": ("json",)}
    collect(tiny_folder, [talks / "deep"], **settings)
    _, seen = collect(tiny_folder, [talks / "deep"], **settings, word_timestamps=True)
    assert [event.cause for event in seen if isinstance(event, events.Redone)] == [
        "other settings: word_timestamps was False, is True"
    ]
    segments = json.loads((tmp_path / "out" / "b.json").read_text())["segments"]
    assert segments
    for segment in segments:
        assert "".join(word["word"] for word in segment["words"]) == segment["text"]
        assert set(segment["words"][0]) == {"start", "end", "word", "probability"}


@pytest.mark.slow
def test_what_changed_is_transcribed_anew_and_said(tiny_folder, talks, tmp_path):
    settings = {"output": str(tmp_path / "out")}
    collect(tiny_folder, [talks], **settings)
    soundfile.write(talks / "a.wav", make_waveform(2.0, seed=3), 16_000)
    _, seen = collect(tiny_folder, [talks], **settings)
    assert [(event.name, event.cause) for event in seen if isinstance(event, events.Redone)] == [
        ("a.wav", "the recording has changed")
    ]
    assert names(seen, events.Kept) == ["deep/b.flac"]
    _, seen = collect(tiny_folder, [talks], **settings, task="translate")
    causes = {event.cause for event in seen if isinstance(event, events.Redone)}
    assert causes == {"other settings: task was 'transcribe', is 'translate'"}


def test_a_run_that_was_stopped_goes_on(tiny_folder, talks, tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if isinstance(event, events.Begun) and event.name == "deep/b.flac":
            raise Stop

    config = TranscribeConfig(output=str(tmp_path / "out"), **GREEDY)
    with pytest.raises(Stop):
        transcribe_recordings(str(tiny_folder), [str(talks)], config, stop)
    _, seen = collect(tiny_folder, [talks], output=str(tmp_path / "out"))
    assert names(seen, events.Kept) == ["a.wav"]
    assert names(seen, events.Finished) == ["deep/b.flac"]


def test_recordings_that_cannot_be_read_do_not_stop_the_others(tiny_folder, talks, tmp_path):
    (talks / "c.mp3").write_bytes(b"no audio at all")
    soundfile.write(talks / "empty.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(talks / "short.wav", np.zeros(40, np.float32), 16_000)
    soundfile.write(talks / "nan.wav", np.full(1000, np.nan, np.float32), 16_000, subtype="FLOAT")
    cut = (talks / "a.wav").read_bytes()[:300_000]
    (talks / "cut.wav").write_bytes(cut)
    report, seen = collect(tiny_folder, [talks], output=str(tmp_path / "out"))
    assert {event.name: event.cause for event in seen if isinstance(event, events.Failed)} == {
        "c.mp3": "Format not recognised.",
        "cut.wav": "cut off: the header promises 1120000 bytes, 299956 are there",
        "empty.wav": "decodes to 0 samples",
        "nan.wav": "holds samples that are not finite numbers, or absurdly large",
        "short.wav": "holds 40 samples at 16 kHz, less than a hundredth of a second",
    }
    assert (report.num_failed, report.num_recordings) == (5, 7)
    assert not (tmp_path / "out" / "cut.txt").exists()


@pytest.mark.slow
def test_a_transcript_that_was_corrected_is_a_failure_only_if_it_would_be_overwritten(tiny_folder, talks, tmp_path):
    out = tmp_path / "out"
    collect(tiny_folder, [talks], output=str(out))
    (out / "a.txt").write_text("corrected\n")
    report, _ = collect(tiny_folder, [talks], output=str(out))
    assert report.num_kept == 2
    report, seen = collect(tiny_folder, [talks], output=str(out), task="translate")
    assert names(seen, events.Failed) == ["a.wav"]
    assert (out / "a.txt").read_text() == "corrected\n"


@pytest.mark.slow
def test_the_command_prints_text_as_it_comes(tiny_folder, talks, capsys):
    assert run(["transcribe", str(tiny_folder), str(talks / "a.wav"), "--temperatures", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a.wav: 35.0 s", "a.wav: language en"]
    assert any(line.startswith("[00:") for line in lines)
    assert lines[-1].startswith("1 recording transcribed, 35.0 s in ")


@pytest.mark.slow
def test_the_command_fails_if_a_recording_did(tiny_folder, talks, tmp_path, capsys):
    soundfile.write(talks / "empty.wav", np.zeros(0, np.float32), 16_000)
    out = tmp_path / "out"
    argv = ["transcribe", str(tiny_folder), str(talks), "--output", str(out), "--batch", "2", "--temperatures", "0"]
    assert run(argv) == 1
    shown = capsys.readouterr()
    assert "warning: empty.wav: decodes to 0 samples" in shown.err
    assert shown.err.splitlines()[-1] == "error: 1 of 3 recordings not transcribed"
    assert f"a.wav: {out / 'a.txt'} written" in shown.out
    assert run(argv) == 1
    assert "a.wav: transcribed by an earlier run with the same settings, kept" in capsys.readouterr().out
    assert run([*argv, "--seed", "7"]) == 1
    assert "a.wav: transcribed anew: other settings: seed was 42, is 7" in capsys.readouterr().out


def test_a_model_folder_without_tokenizer(tiny_folder, talks, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_folder.iterdir():
        if "token" not in path.name and path.name != "vocab.json":
            os.link(path, model / path.name)
    with pytest.raises(ModelError, match="no tokenizer in it"):
        collect(model, [talks])


def test_model_and_recording_are_swapped(tiny_folder, talks):
    with pytest.raises(ConfigError, match=rf"the model comes first: whisper-shard transcribe {tiny_folder} {talks}"):
        collect(talks, [tiny_folder])


def test_settings_that_do_not_fit_an_english_only_model(english_folder, talks):
    with pytest.raises(ConfigError, match=r"--language german: .* is English-only"):
        collect(english_folder, [talks], language="german")
    with pytest.raises(ConfigError, match=r"--task translate: .* is English-only"):
        collect(english_folder, [talks], task="translate")
    report, _ = collect(english_folder, [talks / "deep"], language="en-US")
    assert report.num_failed == 0


def test_an_unknown_language(tiny_folder, talks):
    with pytest.raises(ConfigError, match="language 'xx': the model has no token"):
        collect(tiny_folder, [talks], language="xx")


@pytest.mark.slow
def test_transcripts_go_to_a_bucket_and_recordings_come_from_one(tiny_folder, talks, s3):
    url = f"s3://{BUCKET}/transcribe-run"
    upload_folder(talks, f"{url}/talks")
    urls = [f"{url}/talks"]
    _, seen = collect(tiny_folder, urls, output=f"{url}/texts")
    assert [event.files for event in seen if isinstance(event, events.Finished)] == [
        [f"{url}/texts/a.txt"], [f"{url}/texts/deep/b.txt"],
    ]  # fmt: skip
    report, _ = collect(tiny_folder, urls, output=f"{url}/texts")
    assert report.num_kept == 2


@pytest.mark.slow
def test_speech_alone_is_transcribed_where_it_is_found(tiny_folder, tmp_path, capsys):
    pytest.importorskip("silero_vad")
    waveform, times = make_talk([2.0, 40.0, 1.0])
    soundfile.write(tmp_path / "talk.wav", waveform, 16_000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(48_000, np.float32), 16_000)
    settings = {"output": str(tmp_path / "out"), "format": ("json",), "vad": True, "batch": 3}
    report, seen = collect(tiny_folder, [tmp_path / "talk.wav", tmp_path / "silence.wav"], **settings)
    assert report.num_failed == 0
    begun = {event.name: event.speech_seconds for event in seen if isinstance(event, events.Begun)}
    assert begun["silence.wav"] == 0.0
    spoken = sum(end - start for start, end in times)
    assert spoken < begun["talk.wav"] < spoken + 2.0 * len(times)
    heard = [event for event in seen if isinstance(event, events.Heard) and event.name == "talk.wav"]
    positions = [event.position_seconds for event in heard]
    assert len(positions) == 2  # the last two stretches of speech fit into one window
    assert positions[-1] == pytest.approx(len(waveform) / 16_000, abs=0.01)
    assert json.loads((tmp_path / "out" / "silence.json").read_text())["segments"] == []
    alone = json.loads((tmp_path / "out" / "talk.json").read_text())
    collect(tiny_folder, [tmp_path / "talk.wav"], **{**settings, "output": str(tmp_path / "again"), "batch": 1})
    assert [each["text"] for each in json.loads((tmp_path / "again" / "talk.json").read_text())["segments"]] == [
        each["text"] for each in alone["segments"]
    ]
    assert run(["transcribe", str(tiny_folder), str(tmp_path / "silence.wav"), "--vad"]) == 0
    assert "silence.wav: 3.0 s, 0.0 s of them in windows around speech" in capsys.readouterr().out


def test_where_nothing_is_decoded_no_language_is_known(tiny_folder, english_folder, tmp_path):
    pytest.importorskip("silero_vad")
    soundfile.write(tmp_path / "silence.wav", np.zeros(48_000, np.float32), 16_000)
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    generation = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**generation, "language": None}))
    for folder, settings, language in (
        (model, {}, None), (model, {"language": "de"}, "de"), (english_folder, {}, "en"),
    ):  # fmt: skip
        out = tmp_path / f"out-{language}"
        collect(folder, [tmp_path / "silence.wav"], output=str(out), format=("json",), vad=True, **settings)
        content = json.loads((out / "silence.json").read_text())
        assert (content["segments"], content["language"]) == ([], language)
        again, _ = collect(folder, [tmp_path / "silence.wav"], output=str(out), format=("json",), vad=True, **settings)
        assert again.num_kept == 1
