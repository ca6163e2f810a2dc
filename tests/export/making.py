"""Models for tests of exports."""

import numpy as np
import soundfile

from tests.inference.test_greedy import talkative
from tests.making import WORDS, make_waveform
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.whisper import load_whisper


def make_large_v3_shaped(folder, seed=0):
    """Write a random model with the vocabulary and the mel bins of large-v3 that says different things and ends."""
    make_tiny_whisper(
        folder / "random", texts=WORDS, width=64, encoder_layers=1, decoder_layers=1, heads=1, vocabulary=50_257,
        fill_vocabulary=True, n_mels=128,
    )  # fmt: skip
    loaded = talkative(load_whisper(str(folder / "random")), seed)
    # Short texts: float noise turns into other tokens in long ones.
    loaded.model.model.decoder.embed_tokens.weight[loaded.model.generation_config.eos_token_id] *= 2.4
    save_model_folder(loaded, folder / "model", card="# A card\n")
    return folder / "model"


def write_recordings(folder, num=3):
    """Write some sounds as wav files and return their paths."""
    paths = [folder / f"{number}.wav" for number in range(num)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.asarray(make_waveform(1.5 + number, seed=number)), 16_000, subtype="FLOAT")
    return [str(path) for path in paths]
