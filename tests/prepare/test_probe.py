"""What a row would give, with and without keeping what it has become."""

from dataclasses import replace

import pytest

from tests.prepare.corpora import QUICK, make_corpus
from whisper_shard.audio import members
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.prepare import encode, probe
from whisper_shard.prepare.probe import probe_rows
from whisper_shard.prepare.spool import sample_rows, spool_manifest
from whisper_shard.prepare.task import RowsTask


@pytest.fixture
def num_encoded(monkeypatch):
    """How often each codec has encoded an utterance since."""
    counts = dict.fromkeys(members.ENCODERS, 0)

    def counting(name, encoder):
        def encode_and_count(samples):
            counts[name] += 1
            return encoder(samples)

        return encode_and_count

    encoders = {name: counting(name, encoder) for name, encoder in members.ENCODERS.items()}
    for module in (encode, probe):
        monkeypatch.setattr(module, "ENCODERS", encoders)
    return counts


@pytest.mark.parametrize(
    ("codec", "settings"),
    [("npy", {}), ("flac", {}), ("flac", {"peak": 0.0})],
)
def test_what_is_kept_has_the_sizes_of_what_is_only_measured(codec, settings, tmp_path, num_encoded):
    corpus = make_corpus(tmp_path / "corpus", 6, extra=[("bad.wav", b"no audio")])
    config = PrepareConfig(**{**QUICK, "codec": codec, **settings})
    manifest = open_manifest(corpus, config)
    rows = sample_rows(spool_manifest(manifest, tmp_path / "spool", config))
    (tmp_path / "heartbeats").mkdir()
    measuring = RowsTask(
        number=1,
        config=config,
        rows=rows,
        corpus=manifest.folder,
        heartbeats=tmp_path / "heartbeats",
        codecs=(codec,),
    )
    measured = probe_rows(measuring).probes
    assert num_encoded == {"npy": 0, "flac": 0, codec: 6}
    kept = probe_rows(replace(measuring, is_kept=True)).probes
    assert num_encoded == {"npy": 0, "flac": 0, codec: 12}, "once more, and no more than that"
    assert [replace(one, finished=None) for one in kept] == list(measured)
    assert [one.rejection.reason for one in kept if one.rejection] == ["decode_failed"]
    for one in kept:
        assert sum(len(utterance.audio) for utterance in one.finished.utterances) == one.num_bytes[codec]
        assert bool(one.finished.utterances) == bool(one.num_bytes[codec])
