from whisper_shard.tars.rows import FoundRow, as_found_rows, found_table


def test_rows_survive_a_table():
    rows = [
        FoundRow(row=3, name="\u00e9.wav", transcript="hi", language="de", audio_offset=1 << 40, seconds=0.5),
        FoundRow(name="a", reason="no_text", detail="none"),
    ]
    assert list(as_found_rows(found_table(rows))) == rows


def test_halves_of_surrogate_pairs_are_rejected():
    (row, known) = as_found_rows(
        found_table([FoundRow(name="a", transcript="x\ud800"), FoundRow(name="\udc00", reason="no_audio")])
    )
    assert (row.reason, row.detail, row.transcript) == (
        "bad_text",
        "transcript holds half a surrogate pair",
        "x\\ud800",
    )
    assert (known.reason, known.name) == ("no_audio", "\\udc00")
