"""Texts are counted without torch as they will be labelled with it."""

import json
import shutil

import pytest

from whisper_shard.errors import ConfigError
from whisper_shard.model.labels import Labeler
from whisper_shard.text.tokens import digest_tokenizer, open_tokenizer


@pytest.mark.parametrize("folder", ["tiny_folder", "english_folder"])
def test_counts_are_those_of_the_labels(request, folder):
    from whisper_shard.model.whisper import load_whisper

    path = str(request.getfixturevalue(folder))
    loaded = load_whisper(path)
    labeler = Labeler(loaded.tokenizer, is_multilingual=loaded.is_multilingual)
    for text in ("one two three", "  seven, eight\u2026 nine ", "", "\u4e00\u4e8c"):
        for language in (None, "zh", "de"):
            row = labeler.label(text, language=language)
            assert open_tokenizer(path).count(text, language) == len(row.decoder_input_ids)


def test_what_is_no_model_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--tokenizer .*: has no tokenizer.json; give the folder of a model"):
        open_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"--tokenizer .*: cannot be read: "):
        open_tokenizer(str(tmp_path))


def test_the_digest_follows_what_decides_the_counts_only(tmp_path, tiny_folder):
    (copy := tmp_path / "copy").mkdir()
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        shutil.copy(tiny_folder / name, copy)
    assert digest_tokenizer(str(copy)) == digest_tokenizer(str(tiny_folder))
    config = json.loads((copy / "config.json").read_text()) | {"max_target_positions": 32}
    (copy / "config.json").write_text(json.dumps(config))
    open_tokenizer.cache_clear()
    assert digest_tokenizer(str(copy)) != digest_tokenizer(str(tiny_folder))
    assert open_tokenizer(str(copy)).max_tokens == 32
