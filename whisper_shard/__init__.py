"""whisper-shard: from a large speech corpus to a fine-tuned Whisper.

Read the packages in the order in which one utterance travels through them:

    utterance.py           the nouns: ManifestRow, Utterance, Rejection
    manifests/             a line of the corpus list becomes a ManifestRow
    audio/                 the bytes of a recording become a waveform
    prepare/               waveform and transcript become an Utterance, or a Rejection with its reason
    dataset/               utterances become tar shards and one index, and are read back
    stream/                the plan of an epoch becomes batches of waveforms and texts
    model/                 batches become log-mel spectrograms, labels and a loss
    train/                 losses become gradients, checkpoints and a better Whisper
    inference/, score/     recordings become hypotheses, hypotheses become a word error rate
    transcribe/            recordings of any length become transcripts with times
    export/                models become files of other tools

The names below are the public ones. They are loaded when first used: importing this package imports neither torch nor
any audio library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from whisper_shard.version import __version__

if TYPE_CHECKING:
    from whisper_shard.config.export import ExportConfig as ExportConfig
    from whisper_shard.config.index import IndexConfig as IndexConfig
    from whisper_shard.config.prepare import PrepareConfig as PrepareConfig
    from whisper_shard.config.score import ScoreConfig as ScoreConfig
    from whisper_shard.config.stream import StreamConfig as StreamConfig
    from whisper_shard.config.tools import BenchConfig as BenchConfig
    from whisper_shard.config.train import TrainConfig as TrainConfig
    from whisper_shard.config.transcribe import TranscribeConfig as TranscribeConfig
    from whisper_shard.dataset.index import Dataset as Dataset
    from whisper_shard.dataset.index import open_dataset as open_dataset
    from whisper_shard.dataset.verify import verify_dataset as verify_dataset
    from whisper_shard.dataset.views import filter_dataset as filter_dataset
    from whisper_shard.errors import WhisperShardError as WhisperShardError
    from whisper_shard.export.run import export_model as export_model
    from whisper_shard.model.forward import SpeechLoss as SpeechLoss
    from whisper_shard.model.labels import Labeler as Labeler
    from whisper_shard.model.log_mel import LogMel as LogMel
    from whisper_shard.model.whisper import load_whisper as load_whisper
    from whisper_shard.model.window import fit_window as fit_window
    from whisper_shard.prepare.run import prepare_corpus as prepare_corpus
    from whisper_shard.score.hf_metric import load_error_rates as load_error_rates
    from whisper_shard.score.run import score_hypotheses as score_hypotheses
    from whisper_shard.score.run import score_model as score_model
    from whisper_shard.storage.stores import StorageConfig as StorageConfig
    from whisper_shard.stream.batch import Batch as Batch
    from whisper_shard.stream.delivery import Ledger as Ledger
    from whisper_shard.stream.gopen import register_gopen as register_gopen
    from whisper_shard.stream.loader import Loader as Loader
    from whisper_shard.stream.loader import open_evaluation as open_evaluation
    from whisper_shard.stream.loader import open_loader as open_loader
    from whisper_shard.stream.resume import PlanState as PlanState
    from whisper_shard.stream.resume import plan_state_from_json as plan_state_from_json
    from whisper_shard.tars.run import index_tars as index_tars
    from whisper_shard.train.loop import train_model as train_model
    from whisper_shard.transcribe.run import transcribe_recordings as transcribe_recordings

_HOMES = {
    # settings
    "PrepareConfig": "config.prepare",
    "IndexConfig": "config.index",
    "StreamConfig": "config.stream",
    "TrainConfig": "config.train",
    "ScoreConfig": "config.score",
    "TranscribeConfig": "config.transcribe",
    "ExportConfig": "config.export",
    "BenchConfig": "config.tools",
    # prepare a corpus; open and verify a dataset
    "prepare_corpus": "prepare.run",
    "index_tars": "tars.run",
    "open_dataset": "dataset.index",
    "Dataset": "dataset.index",
    "verify_dataset": "dataset.verify",
    "filter_dataset": "dataset.views",
    "StorageConfig": "storage.stores",
    # stream batches
    "open_loader": "stream.loader",
    "open_evaluation": "stream.loader",
    "Loader": "stream.loader",
    "Batch": "stream.batch",
    "Ledger": "stream.delivery",
    "PlanState": "stream.resume",
    "register_gopen": "stream.gopen",
    "plan_state_from_json": "stream.resume",
    # batches in a training loop of your own
    "load_whisper": "model.whisper",
    "fit_window": "model.window",
    "LogMel": "model.log_mel",
    "Labeler": "model.labels",
    "SpeechLoss": "model.forward",
    # train, score, transcribe and export
    "train_model": "train.loop",
    "score_model": "score.run",
    "score_hypotheses": "score.run",
    "load_error_rates": "score.hf_metric",
    "transcribe_recordings": "transcribe.run",
    "export_model": "export.run",
    # errors
    "WhisperShardError": "errors",
}
"""The module of each public name."""

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - the keys are strings


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
