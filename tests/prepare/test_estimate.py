import pytest
import soundfile

from tests.making import make_waveform
from tests.prepare.corpora import make_corpus, prepare
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.prepare.estimate import estimate_corpus


@pytest.mark.slow
def test_dry_run_tells_the_plan_and_writes_nothing(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 60, seconds=1.5, extra=[("bad.wav", b"nothing")])
    soundfile.write(tmp_path / "corpus/audios/0.wav", make_waveform(0.5), 16_000)
    before = sorted(tmp_path.rglob("*"))
    found = estimate_corpus(corpus, PrepareConfig(trim_db=0.0, jobs=2, shard_mb=1))
    assert sorted(tmp_path.rglob("*")) == before
    assert (found.num_rows, found.splits["train"].num_rows, found.splits["eval"].num_rows) == (61, 54, 7)
    assert found.splits["train"].num_shards == -(-54 // found.shard_rows)
    assert [probe.row for probe in found.first] == list(range(50))
    assert [(p.row, p.rejection.reason) for p in found.first if p.rejection] == [(0, "too_short"), (3, "decode_failed")]
    assert found.hours == pytest.approx(59 * 1.53 / 3600, rel=0.02)
    for codec in ("npy", "flac"):
        prepare(corpus, tmp_path / codec, shard_mb=1, codec=codec)
        num_bytes = sum(path.stat().st_size for path in (tmp_path / codec).rglob("*.tar"))
        assert found.num_bytes[codec] == pytest.approx(num_bytes, rel=0.1)
