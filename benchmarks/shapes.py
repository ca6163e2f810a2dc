"""Models with the shape of published ones and random weights: for measurements that do not depend on what they say."""

from pathlib import Path

from benchmarks.speech import LINKS, OBJECTS, PLACES, SUBJECTS, VERBS
from whisper_shard.demo.tiny_whisper import make_tiny_whisper

SHAPES = {
    "tiny": {"width": 64, "encoder_layers": 2, "decoder_layers": 2, "heads": 2},
    "base": {"width": 512, "encoder_layers": 6, "decoder_layers": 6, "heads": 8},
    "small": {"width": 768, "encoder_layers": 12, "decoder_layers": 12, "heads": 12},
    "large-v3": {"width": 1280, "encoder_layers": 32, "decoder_layers": 32, "heads": 20, "n_mels": 128},
}
"""Source: config.json of openai/whisper-base, -small and -large-v3; tiny is smaller than whisper-tiny."""


def make_shaped(shape: str, work: Path) -> Path:
    """Return the folder of a model of this shape, made if it is missing; its vocabulary is as large as Whisper's.

    Args:
        shape: Of `SHAPES`.
        work: Where it is kept.
    """
    folder = work / f"model-{shape}"
    if not (folder / "processor_config.json").is_file() and not (folder / "preprocessor_config.json").is_file():
        texts = [*SUBJECTS, *VERBS, *OBJECTS, *PLACES, *LINKS]
        vocabulary = 2000 if shape == "tiny" else 50_257
        make_tiny_whisper(folder, texts=texts, vocabulary=vocabulary, fill_vocabulary=shape != "tiny", **SHAPES[shape])
    return folder
