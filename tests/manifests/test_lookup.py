import tracemalloc

from whisper_shard.manifests.lookup import Lookup


def test_texts_are_found_by_name_and_the_rest_is_known():
    with Lookup() as table:
        assert table.add_all([("b", "two"), ("a", "one"), ("c", "")]) is None
        assert [table.use(name) for name in ("a", "a", "x", "c", "")] == ["one", "one", None, "", None]
        assert [table.get(name) for name in ("b", "x")] == ["two", None]
        assert list(table.unused()) == [("b", "two")]


def test_a_name_that_comes_twice_is_returned():
    with Lookup() as table:
        assert table.add_all(iter([("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")])) == "a"
    with Lookup() as table:
        assert table.add_all([("a", "1")]) is None
        assert table.add_all([("b", "1"), ("a", "2")]) == "a"


def test_names_are_not_held_as_objects():
    tracemalloc.start()
    with Lookup() as table:
        table.add_all((f"utterance-{i:09d}", f"/corpus/audio/{i}.wav") for i in range(100_000))
        assert table.use("utterance-000099999") == "/corpus/audio/99999.wav"
        assert sum(1 for _ in table.unused()) == 99_999
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e6
