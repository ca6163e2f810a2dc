"""A small Whisper with random weights and a tokenizer of its own: for training from scratch, and for tests.

The architecture, the special tokens and the files are those of Whisper; only width, depth and vocabulary are small. So
every tool that loads a Whisper loads this model.
"""

import json
import math
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path
from string import ascii_letters
from typing import Any

import torch
from torch import nn

from whisper_shard.model.device import explain_broken_install
from whisper_shard.model.whisper import hide_progress_bars
from whisper_shard.utterance import MAX_LABEL_TOKENS, MAX_SECONDS

LAST_TOKENS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
"""Special tokens after the languages, in Whisper's order. Source: openai/whisper tokenizer.py."""
NUM_TIMESTAMPS = 1501
"""Timestamp tokens: 0.00 to 30.00 s in steps of 0.02 s."""

RESIDUAL_OUTPUTS = ("fc2", "out_proj")
"""Names of the layers that end a residual block."""


def make_tiny_whisper(
    folder: Path,
    *,
    texts: Sequence[str],
    width: int = 128,
    encoder_layers: int = 3,
    decoder_layers: int = 2,
    heads: int = 2,
    vocabulary: int = 600,
    fill_vocabulary: bool = False,
    tokens_of: Path | None = None,
    n_mels: int = 80,
    is_multilingual: bool = True,
    max_seconds: float = MAX_SECONDS,
    seed: int = 0,
) -> Path:
    """Write a folder with a small random Whisper, its tokenizer, processor and generation settings.

    The same arguments give the same weights and the same tokenizer.

    Args:
        folder: Created if missing.
        texts: The tokenizer is trained on these.
        width: Width of encoder and decoder; a multiple of 2 * heads.
        encoder_layers: Layers of the encoder.
        decoder_layers: Layers of the decoder.
        heads: Attention heads.
        vocabulary: Text tokens at most, including one for each of the 256 bytes.
        fill_vocabulary: Add tokens of letters that the texts do not need, until there are exactly ``vocabulary``; with
            50,257 the numbers of all special tokens are those of large-v3, as whisper.cpp and others expect.
        tokens_of: Model folder whose text tokens are used instead of tokens of the texts.
        n_mels: Mel bins.
        is_multilingual: Whether language and task tokens are used. Tools other than transformers decide that by the
            size of the vocabulary, and take one of fewer than 51,865 tokens for English-only.
        max_seconds: Window of the encoder in seconds; standard tools need 30, tests use less.
        seed: Seed of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _build_tokenizer(
        folder, _train_tokens(texts, vocabulary, is_filled=fill_vocabulary, tokens_of=tokens_of)
    )
    with explain_broken_install():
        from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperProcessor
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=n_mels,
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=round(50 * max_seconds),
        max_target_positions=MAX_LABEL_TOKENS,
        begin_suppress_tokens=None,
        suppress_tokens=None,
        **_special_ids(tokenizer.get_vocab()),
    )
    generation = _generation_settings(tokenizer.get_vocab(), decoder_layers, is_multilingual)
    _save_random_model(folder, config, generation, seed)
    extractor = WhisperFeatureExtractor(feature_size=n_mels, chunk_length=round(max_seconds))
    WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def _special_ids(ids: dict[str, int]) -> dict[str, int]:
    end = ids["<|endoftext|>"]
    start = ids["<|startoftranscript|>"]
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def _save_random_model(folder: Path, config: Any, generation: dict[str, Any], seed: int) -> None:
    from transformers import GenerationConfig, WhisperForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config)
        _initialize(model)
    model.generation_config = GenerationConfig(**generation)
    with hide_progress_bars():
        model.save_pretrained(folder)


def _train_tokens(texts: Sequence[str], vocabulary: int, *, is_filled: bool, tokens_of: Path | None) -> Any:
    """Return a byte-level BPE model, trained on the texts or taken from another model."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if tokens_of is not None:
        bpe = json.loads((tokens_of / "tokenizer.json").read_text("utf-8"))["model"]
        return models.BPE(vocab=bpe["vocab"], merges=[_split_merge(merge) for merge in bpe["merges"]])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((f" {text}" for text in texts), trainer)
    return _fill_merges(json.loads(tokenizer.to_str())["model"], vocabulary) if is_filled else tokenizer.model


def _split_merge(merge: str | list[str]) -> tuple[str, str]:
    """Return both sides of a merge, which older files join with a space."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _build_tokenizer(folder: Path, tokens: Any) -> Any:
    """Write a tokenizer of these text tokens, with Whisper's special tokens after them."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from transformers import WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    tokenizer = Tokenizer(tokens)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["endoftext", "startoftranscript", *LANGUAGES, *LAST_TOKENS]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False, special=True) for name in special])
    times = [f"<|{step * 0.02:.2f}|>" for step in range(NUM_TIMESTAMPS)]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in times])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "WhisperTokenizer", "model_max_length": MAX_LABEL_TOKENS, "add_prefix_space": False}
    settings |= {f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "pad", "unk")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return WhisperTokenizer.from_pretrained(str(folder))


def _fill_merges(model: dict[str, Any], size: int) -> Any:
    """Return a BPE model with further merges, of two and three letters, up to ``size`` tokens."""
    from tokenizers import models

    vocabulary: dict[str, int] = model["vocab"]
    merges = [(left, right) for left, right in model["merges"]]
    pairs = list(product(ascii_letters, repeat=2))
    for left, right in chain(pairs, ((f"{one}{two}", letter) for one, two in pairs for letter in ascii_letters)):
        if len(vocabulary) == size:
            break
        if f"{left}{right}" not in vocabulary:
            vocabulary[f"{left}{right}"] = len(vocabulary)
            merges.append((left, right))
    return models.BPE(vocab=vocabulary, merges=merges)


def _generation_settings(ids: dict[str, int], decoder_layers: int, is_multilingual: bool) -> dict[str, Any]:
    """Return the settings that `generate` needs: the ids of special tokens, and the default language and task."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    settings: dict[str, Any] = {
        "is_multilingual": is_multilingual,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_initial_timestamp_index": 50,
        "max_length": MAX_LABEL_TOKENS,
        "return_timestamps": False,
        "suppress_tokens": [],
        "begin_suppress_tokens": [ids["\u0120"], ids["<|endoftext|>"]],
        "alignment_heads": [[decoder_layers - 1, 0]],
        **_special_ids(ids),
    }
    if is_multilingual:
        settings["lang_to_id"] = {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES}
        settings["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
        settings |= {"language": "en", "task": "transcribe"}
    return settings


@torch.no_grad()
def _initialize(model: nn.Module) -> None:
    """Draw weights scaled by the width of their input; those that end a residual block also by the depth.

    Whisper's default standard deviation of 0.02 suits widths near 1,000. At this width the audio would be weak beside
    the position embeddings.

    Source: Radford et al. 2019 (GPT-2), section 2.3, for the scale of residual outputs.
    """
    depth = sum(name.endswith(RESIDUAL_OUTPUTS) for name, _ in model.named_modules())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("proj_out"):
            scale = 1.0 / math.sqrt(module.in_features)
            nn.init.normal_(module.weight, std=scale / math.sqrt(depth) if name.endswith(RESIDUAL_OUTPUTS) else scale)
        elif isinstance(module, nn.Conv1d):
            nn.init.normal_(module.weight, std=1.0 / math.sqrt(module.in_channels * module.kernel_size[0]))
