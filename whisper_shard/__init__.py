"""whisper-shard: from a large speech corpus to a fine-tuned Whisper.

Read the package in the order in which one utterance travels through it:

    utterance.py           the nouns
    formats/manifest.py    a line of the corpus list becomes a ManifestRow
    formats/codecs.py      the bytes of a recording become a waveform
    prepare/               the waveform and its transcript become an Utterance, or a Rejection with its reason
    formats/shard.py       utterances become a tar shard
    formats/index.py       shards become a dataset
    stream/plan.py         which utterances make up step k of epoch e
    stream/                the plan becomes batches of waveforms and texts
    train/                 batches become log-mel spectrograms, a loss, gradients, and a better Whisper

Importing this package imports neither torch nor any audio library.
"""

__version__ = "0.1.0"
