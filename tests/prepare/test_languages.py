import json

import pyarrow as pa
import soundfile

from tests.making import make_waveform
from tests.prepare.corpora import prepare, totals_of, write_csv
from whisper_shard.dataset.index import open_dataset
from whisper_shard.manifests.rows import MANIFEST_SCHEMA
from whisper_shard.prepare.events import Note
from whisper_shard.prepare.languages import LanguageCheck


def mend(*tags, check=None, extra=None):
    lines = [
        {"row": i, "source": f"{i}.wav", "transcript": "text", "language": tag, "extra": extra}
        for i, tag in enumerate(tags)
    ]
    return (check or LanguageCheck()).mend(pa.Table.from_pylist(lines, schema=MANIFEST_SCHEMA))


def test_tags_and_names_become_codes_and_are_carried_along():
    check = LanguageCheck()
    table = mend("en", "English", None, "en-US", "pt_BR", check=check, extra='{"room": 3}')
    assert table.schema == MANIFEST_SCHEMA
    assert table["language"].to_pylist() == ["en", "en", None, "en", "pt"]
    assert [json.loads(extra).get("language_tag") for extra in table["extra"].to_pylist()] == [
        None, "English", None, "en-US", "pt_BR",
    ]  # fmt: skip
    assert list(check.notes()) == [
        "languages become codes in 3 rows: 'English' is en, 'en-US' is en, 'pt_BR' is pt; "
        "the tags are carried along as language_tag"
    ]


def test_codes_are_left_alone():
    check = LanguageCheck()
    table = mend("en", "de", None, "yue", check=check)
    assert table["extra"].null_count == 4
    assert list(check.notes()) == []


def test_what_is_no_language_is_rejected_with_near_names():
    check = LanguageCheck()
    table = mend("Germn", "de", "klingon", check=check)
    assert table["reason"].to_pylist() == ["unknown_language", None, "unknown_language"]
    assert table["detail"][0].as_py() == "language 'Germn': did you mean de (german)?"
    first, second = check.notes()
    assert first == (
        "language 'Germn' is none of Whisper's: 1 row rejected as unknown_language; did you mean de (german)?"
    )
    assert "give a BCP-47 tag" in second or "did you mean" in second


def test_the_dataset_holds_codes(tmp_path):
    rows = []
    for i, tag in enumerate(("german", "de-CH", "de", "Germn")):
        soundfile.write(tmp_path / f"{i}.wav", make_waveform(1.2, seed=i), 16_000)
        rows.append((f"{i}.wav", f"utterance {i}", tag))
    corpus = write_csv(tmp_path / "corpus.csv", rows, ("audios", "transcription", "lang"))
    events = prepare(corpus, tmp_path / "out", eval_fraction=0.0)
    assert totals_of(events)["train"].rejects == {"unknown_language": 1}
    assert open_dataset(tmp_path / "out" / "train").columns("language")["language"].tolist() == ["de"] * 3
    assert any("'german' is de" in event.message for event in events if isinstance(event, Note))
