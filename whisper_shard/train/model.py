"""Whisper itself: load it, encode windows of any length, put encoder, decoder and loss into one module, save it.

Hugging Face's encoder wants exactly 30 s. `encode` calls the same layers with the first positions only, so a window of
5 s costs a sixth; at 30 s the numbers are the same to the bit.
"""

import copy
import math
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from whisper_shard.errors import ConfigError, ModelError
from whisper_shard.formats.storage import as_environment_fault, sync_folder
from whisper_shard.train.adapt import plain_state_dict
from whisper_shard.train.capture import fingerprint_model
from whisper_shard.train.device import explain_broken_install
from whisper_shard.train.features import MAX_FRAMES, LogMel, spec_augment
from whisper_shard.train.objective import token_loss
from whisper_shard.train.silence import STRIDE, Silence, without_edge
from whisper_shard.train.tokens import whisper_language
from whisper_shard.utterance import HOP_LENGTH

WHISPER_VOCABULARY = 51_865
"""Tokens of the smallest multilingual Whisper; fewer means English only. Source: openai/whisper model.py."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWhisper:
    """A Whisper model with all that belongs to it."""

    model: Any
    """WhisperForConditionalGeneration with float32 parameters."""
    processor: Any
    """WhisperProcessor: tokenizer and feature extractor, saved beside the model."""
    tokenizer: Any
    """The processor's tokenizer."""
    n_mels: int
    """Mel bins the encoder wants: 80 or 128."""
    is_multilingual: bool
    """Whether prefixes have language and task tokens."""
    path: str
    """Folder or name it was loaded from."""
    fingerprint: str
    """Tells its weights, as loaded, from others."""


def load_whisper(model: str, *, dropout: float = 0.0) -> LoadedWhisper:
    """Load a Whisper model, its tokenizer and its generation settings; parameters become float32.

    Args:
        model: Folder in Hugging Face form, or a name on the model hub.
        dropout: Probability behind attention and feed-forward blocks, when training.

    Raises:
        ModelError: No such folder, no processor in it, not a Whisper, damaged, or the hub cannot be reached.
        EnvironmentFault: transformers cannot be imported beside this torchaudio.
    """
    with explain_broken_install():
        from transformers import AutoConfig, WhisperForConditionalGeneration, WhisperProcessor
    _check_folder(model)
    # Without a network the hub's library tries for half a minute, file by file, before it looks into its own cache.
    is_local = Path(model).is_dir() or not _finds_hub()
    with _explain_load(model), quiet_bars():
        config = AutoConfig.from_pretrained(model, local_files_only=is_local)
        if config.model_type != "whisper":
            raise ModelError(f"{model}: a {config.model_type} model; whisper-shard trains Whisper only")
        config.dropout = dropout
        config.attention_dropout = config.activation_dropout = config.encoder_layerdrop = 0.0
        network = WhisperForConditionalGeneration.from_pretrained(
            model, config=config, dtype=torch.float32, attn_implementation="sdpa", local_files_only=is_local
        )
        processor = WhisperProcessor.from_pretrained(model, local_files_only=is_local)
    return LoadedWhisper(
        model=network,
        processor=processor,
        tokenizer=processor.tokenizer,
        n_mels=network.config.num_mel_bins,
        is_multilingual=is_multilingual(network),
        path=model,
        fingerprint=fingerprint_model(network),
    )


def is_multilingual(model: Any) -> bool:
    """Tell whether a model has language and task tokens."""
    stated = getattr(model.generation_config, "is_multilingual", None)
    return bool(stated) if stated is not None else model.config.vocab_size >= WHISPER_VOCABULARY


def _check_folder(model: str) -> None:
    """Find what is wrong with a local folder before transformers does, and say it in a line."""
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith(("/", ".", "~")) or model.endswith("/") or model.count("/") > 1 or folder.exists():
            raise ModelError(
                f"{model}: no such model folder; give a folder with config.json or a name on the model hub"
            )
        return
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model}: not a model folder, config.json is missing")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"{model}: no tokenizer in it (tokenizer.json); save model and processor into one folder")
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        raise ModelError(
            f"{model}: no processor in it (processor_config.json or preprocessor_config.json); "
            "save model and processor into one folder"
        )


def _finds_hub() -> bool:
    """Tell whether the model hub's name leads anywhere; a proxy looks it up itself."""
    from huggingface_hub import constants

    try:
        return bool(getproxies() or socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None))
    except OSError:
        return False


@contextmanager
def _explain_load(model: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first_line = next(iter(str(error).strip().splitlines()), repr(error))
        if Path(model).is_dir():
            raise ModelError(f"{model}: cannot be loaded: {first_line}") from error
        raise ModelError(
            f"{model}: neither a folder here nor loadable from the model hub ({first_line}); "
            "check the name and the network, or give a folder"
        ) from error


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Keep transformers from drawing progress bars for the time: only the command line shows progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def encode(model: Any, log_mel: Tensor, *, stochastic_depth: float = 0.0, silence: Silence | None = None) -> Tensor:
    """Return encoder states of windows of any length up to 30 s, (B, T // 2, D).

    Dropout works as in Hugging Face's encoder when the model trains.

    Args:
        model: WhisperForConditionalGeneration.
        log_mel: (B, M, T), T even, at most 3,000.
        stochastic_depth: Probability that a row skips a layer, when training, 0 to 1.
        silence: What is heard behind the window; None: nothing.

    Raises:
        ConfigError: The window is longer than the model's positions or has an odd number of frames.
    """
    depth = stochastic_depth if model.training else 0.0
    *_, hidden = encoder_states(model, log_mel, stochastic_depth=depth, silence=silence)
    normed: Tensor = model.model.encoder.layer_norm(hidden)
    return normed


def encoder_states(
    model: Any, log_mel: Tensor, *, stochastic_depth: float = 0.0, silence: Silence | None = None
) -> Iterator[Tensor]:
    """Yield the input of each encoder layer and the output of the last, (B, T // 2, D); see `encode`."""
    encoder = model.model.encoder
    num_frames = log_mel.shape[-1]
    max_frames = 2 * encoder.embed_positions.weight.shape[0]
    if num_frames % 2 or not 0 < num_frames <= max_frames:
        raise ConfigError(f"window of {num_frames} frames: the encoder needs an even number of 2 to {max_frames}")
    log_mel = log_mel if silence is None else without_edge(log_mel)
    hidden = functional.gelu(encoder.conv1(log_mel))
    hidden = functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)[:, : num_frames // 2]
    hidden = hidden + encoder.embed_positions.weight[: num_frames // 2]
    hidden = functional.dropout(hidden, p=encoder.dropout, training=encoder.training)
    yield hidden
    for number, layer in enumerate(encoder.layers):
        lent = {}
        if silence is not None:
            lent = silence.lend(layer.self_attn, layer.self_attn_layer_norm(silence.behind(number, num_frames // 2)))
        hidden = _maybe_skip(hidden, layer(hidden, None, **lent), stochastic_depth)
        yield hidden


def listen_to_silence(model: Any, log_mel: LogMel, donor: Tensor) -> Silence:
    """Return what the encoder, as it is now, makes of the silence behind an utterance.

    Args:
        model: WhisperForConditionalGeneration.
        log_mel: Makes its spectrograms.
        donor: (1, S) waveform, S no more than the model's window.
    """
    samples = 2 * model.config.max_source_positions * HOP_LENGTH
    waveform = functional.pad(donor, (0, samples - donor.shape[1]))
    return record_silence(model, log_mel(waveform), num_frames=donor.shape[1] // HOP_LENGTH)


@torch.no_grad()
def record_silence(model: Any, log_mel: Tensor, *, num_frames: int, stride: int = STRIDE) -> Silence:
    """Return what the encoder, as it is now, makes of the silence behind one utterance.

    Args:
        model: WhisperForConditionalGeneration; dropout does not count.
        log_mel: (1, M, T) of the donor in the model's own window.
        num_frames: Frames of the donor that are not silence.
        stride: One of so many positions is kept.
    """
    first = math.ceil(num_frames / 2)
    was_training = model.training
    model.eval()
    states = tuple(hidden[:, first::stride] for hidden in encoder_states(model, log_mel))
    model.train(was_training)
    return Silence(states=states, first=first, stride=stride)


def _maybe_skip(before: Tensor, after: Tensor, probability: float) -> Tensor:
    """Let each row skip the layer with this probability, and make up for it in the others; the graph stays the same.

    Source: Deep Networks with Stochastic Depth, arXiv:1603.09382.
    """
    if probability == 0.0:
        return after
    keep = 1.0 - probability
    mask = torch.empty(len(before), 1, 1, device=before.device, dtype=before.dtype).bernoulli_(keep).div_(keep)
    return before + mask * (after - before)


def decode_teacher_forced(
    model: Any, encoder_hidden: Tensor, decoder_input_ids: Tensor, silence: Silence | None = None
) -> Tensor:
    """Return decoder states, (B, L, D): no cache is built, no mask is made, and nothing waits for the device.

    Without a mask the attention is causal by a flag, which keeps the fastest kernels; labels are padded behind, where
    no real token can see them.
    """
    decoder = model.model.decoder
    positions = decoder.embed_positions.weight[: decoder_input_ids.shape[1]]
    hidden = decoder.embed_tokens(decoder_input_ids) + positions
    hidden = functional.dropout(hidden, p=decoder.dropout, training=decoder.training)
    lent = {}
    for layer in decoder.layers:
        if silence is not None:
            behind = model.model.encoder.layer_norm(silence.behind(-1, encoder_hidden.shape[1]))
            lent = silence.lend(layer.encoder_attn, behind)
        hidden = layer(hidden, None, encoder_hidden, use_cache=False, **lent)
    normed: Tensor = decoder.layer_norm(hidden)
    return normed


class SpeechLoss(nn.Module):
    """Waveforms and labels to summed loss: log-mel, encoder, decoder and objective as one module.

    Its only weights are the model's. Gradients are summed over ranks in `step`, and layers compiled in `adapt`.

    Args:
        model: WhisperForConditionalGeneration.
        label_smoothing: See `objective.token_loss`.
        stochastic_depth: See `encode`.
        spec_augment: Keywords of `features.spec_augment`; None: no masks.
    """

    def __init__(
        self,
        model: Any,
        *,
        label_smoothing: float = 0.0,
        stochastic_depth: float = 0.0,
        spec_augment: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.log_mel = LogMel(model.config.num_mel_bins)
        self.label_smoothing = label_smoothing
        self.stochastic_depth = stochastic_depth
        self.spec_augment = dict(spec_augment) if spec_augment is not None else None

    def forward(
        self,
        waveforms: Tensor,
        decoder_input_ids: Tensor,
        labels: Tensor,
        num_samples: Tensor,
        *,
        seeds: Sequence[int] | None = None,
        kept: Tensor | None = None,
        silence: Silence | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (sum of token losses, number of tokens), float32 scalars.

        Args:
            waveforms: (B, S) float32 or int16, zeros behind each row's end; S a multiple of 2 * HOP_LENGTH.
            decoder_input_ids: (B, L).
            labels: (B, L), IGNORE_INDEX where nothing is learned.
            num_samples: (B,) real samples of each row.
            seeds: One integer a row, for SpecAugment; needed when it is on and the module trains.
            kept: See `objective.token_loss`.
            silence: From `listen`: what is heard behind a short window; None: nothing.
        """
        log_mel = self.log_mel(waveforms)
        if self.spec_augment is not None and self.training:
            if seeds is None:
                raise ConfigError("SpecAugment needs one seed for each row of the batch")
            num_frames = (num_samples // HOP_LENGTH).clamp(max=MAX_FRAMES)
            log_mel = spec_augment(log_mel, num_frames, seeds=seeds, **self.spec_augment)
        encoder_hidden = encode(self.model, log_mel, stochastic_depth=self.stochastic_depth, silence=silence)
        hidden = decode_teacher_forced(self.model, encoder_hidden, decoder_input_ids, silence)
        return token_loss(
            hidden,
            self.model.proj_out.weight,
            labels,
            label_smoothing=self.label_smoothing,
            kept=kept,
        )

    def listen(self, donor: Tensor) -> Silence:
        """Return the silence behind a donor, (1, S) waveform, as the encoder hears it now."""
        return listen_to_silence(self.model, self.log_mel, donor)


def save_model_folder(
    loaded: LoadedWhisper,
    folder: Path,
    *,
    language: str | None = None,
    task: str | None = None,
) -> None:
    """Write model, tokenizer, feature extractor and generation settings as one Hugging Face folder, all or nothing.

    ``transformers.pipeline("automatic-speech-recognition", model=folder)`` and ``load_whisper`` read it. Low-rank
    updates are merged into the weights. A folder of that name is replaced.

    Args:
        loaded: The model and what belongs to it.
        folder: Where to write.
        language: BCP-47 tag that generation takes by default; None: as before.
        task: transcribe or translate by default; None: as before.

    Raises:
        EnvironmentFault: The disk is full or does not let us write.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        with quiet_bars():
            loaded.model.save_pretrained(partial, state_dict=plain_state_dict(loaded.model))
        _generation_settings(loaded, language, task).save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
        for file in partial.iterdir():
            _sync_file(file)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise as_environment_fault(error, folder) from error


def _generation_settings(loaded: LoadedWhisper, language: str | None, task: str | None) -> Any:
    """Return generation settings as today's tools want them: language and task by name, nothing forced by position."""
    settings = copy.deepcopy(loaded.model.generation_config)
    settings.forced_decoder_ids = None
    if loaded.is_multilingual:
        settings.language = whisper_language(language) if language else getattr(settings, "language", None)
        settings.task = task or getattr(settings, "task", None)
    return settings


def _sync_file(path: Path) -> None:
    """Make a file that others wrote survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
