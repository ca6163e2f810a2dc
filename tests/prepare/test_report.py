import pyarrow as pa
import pytest

from tests.prepare.corpora import make_corpus, prepare, totals_of
from tests.report.reading import HOSTILE, Page
from whisper_shard.dataset.schema import IndexRow
from whisper_shard.dataset.statistics import Statistics
from whisper_shard.prepare.clips import CLIP_CHARS
from whisper_shard.prepare.events import Note
from whisper_shard.prepare.report import RejectExample, Tally, render_report
from whisper_shard.utterance import ManifestRow


def render(name, tally, rejects=(), checks=()):
    return Page(render_report(name, tally, rejects=rejects, checks=checks, find_clip=lambda _: None))


def table_of(speakers, *, seconds=1.0):
    number = len(speakers)
    columns = {name: [0] * number for name in IndexRow.__slots__}
    texts = {name: ["a"] * number for name in ("key", "text", "source", "task")}
    lengths = {"num_samples": [round(16_000 * seconds)] * number, "num_chars": [20] * number}
    return pa.table({**columns, **texts, **lengths, "language": [None] * number, "speaker": speakers})


def test_page_shows_counts_and_escapes_what_users_wrote():
    tally = Tally(num_rows=3)
    tally.reasons["too_short"] = 1
    tally.kept.add(table_of([HOSTILE, HOSTILE, None][:2], seconds=1.02))
    row = ManifestRow(row=2, source=HOSTILE, path=HOSTILE, transcript=HOSTILE, extra={"gender": HOSTILE})
    reject = RejectExample(row=row, reason="too_short", detail=HOSTILE, seconds=0.5, clip=None)
    page = render("train", tally, [reject], [HOSTILE])
    assert "2 (66.7%)" in page.text and "too_short 1 33.3%" in page.text and "row 2 · " in page.text
    assert page.text.count(HOSTILE) == 5 + 1 + 4 * 2  # the row and the check, the speaker, and four rankings of two
    assert f"{HOSTILE} 2 100.0% 2.0 s" in page.text
    assert "1 to 1.1 seconds: 2 utterances" in page.text


def test_an_empty_dataset_has_a_page():
    assert "0 (0.0%)" in render("eval", Tally()).text


def test_names_are_counted_in_bounded_memory(monkeypatch):
    monkeypatch.setattr("whisper_shard.dataset.statistics.MAX_NAMES", 40)
    tally = Tally()
    tally.kept.add(table_of([f"speaker{number:02d}" for number in range(50)]))
    tally.kept.add(table_of(["speaker03", "", None, "speaker49"]))
    speakers = tally.kept.speakers
    assert (len(speakers.by_name), speakers.by_name["speaker03"], speakers.num_other) == (40, (2, 32_000), 11)
    text = render("train", tally).text
    assert "speaker03 2 3.8%" in text and "and 10 more" in text
    assert "11 utterances have further names, which are not counted one by one" in text


def test_suspicious_utterances_come_with_the_filter_that_drops_them():
    tally = Tally(num_rows=2)
    tally.kept.add(table_of(["a", "b"], seconds=0.5))
    text = render("train", tally).text
    assert 'Spoken too fast for the text 2 100.0% "chars_per_second <= 30"' in text
    assert "chars_per_second > 30: 2 utterances" in text and "40.0 characters/s" in text


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    corpus = make_corpus(folder / "corpus", 8, extra=[("bad.wav", b"RIFF\0\0\0\0WAVEnothing")])
    events = prepare(corpus, folder / "out", jobs=1, eval_fraction=0.25)
    return folder, corpus, events


def test_report_rejects_and_totals_agree(tmp_path, reported):
    import pyarrow.parquet as pq

    folder, _, events = reported
    totals = totals_of(events)
    assert sum(split.num_rows for split in totals.values()) == 9
    (name,) = [name for name, split in totals.items() if split.rejects]
    assert totals[name].rejects == {"decode_failed": 1}
    (reject,) = pq.read_table(folder / "out" / name / "rejects.parquet").to_pylist()
    assert (reject["row"], reject["source"], reject["reason"]) == (3, "audios/bad.wav", "decode_failed")
    page = Page((folder / "out" / name / "report.html").read_text())
    assert "decode_failed 1 " in page.text and "text of bad.wav row 3 · audios/bad.wav" in page.text


def test_report_states_what_was_checked_of_the_split(reported):
    folder, _, events = reported
    for name in ("train", "eval"):
        text = Page((folder / "out" / name / "report.html").read_text()).text
        assert "the evaluation set has 3 of 9 rows, 33.3%" in text
        assert "recordings: 6 in train, 3 in eval, 0 in both" in text
        (line,) = [e.message for e in events if isinstance(e, Note) and e.message.startswith("audio compared by hash")]
        assert line in text


def test_clips_play_and_the_page_stays_small(reported, tmp_path):
    import base64
    import io

    import soundfile

    folder, _, _ = reported
    html = (folder / "out/train/report.html").read_text()
    urls = [attributes["src"] for tag, attributes in Page(html).tags if tag == "audio"]
    clips = {base64.b64decode(url.partition(",")[2]) for url in urls if url.startswith("data:audio/mpeg")}
    assert len(clips) >= 4 and len(html) < CLIP_CHARS
    for clip in clips:
        samples, rate = soundfile.read(io.BytesIO(clip))
        assert rate == 16_000 and len(samples) >= 1.3 * 16_000 and abs(samples).max() > 0.3


def test_statistics_of_pieces_are_those_of_the_whole():
    whole, pieces = Statistics(), Statistics()
    tables = [table_of([f"s{number}"], seconds=1 + number % 5) for number in range(12)]
    whole.add(pa.concat_tables(tables))
    for table in tables:
        pieces.add(table)
    for ranking, ranked in whole.rankings.items():
        assert pieces.rankings[ranking] == ranked, ranking
    assert [row["position"] for row in whole.rankings[next(iter(whole.rankings))].examples] == []
