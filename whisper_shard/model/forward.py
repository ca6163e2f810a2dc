"""Forward passes: encode windows of any length, decode with teacher forcing, and the loss of a batch.

Hugging Face's encoder accepts exactly 30 s. `encode` calls the same layers with the first positions only, so a window
of 5 s costs a sixth; at 30 s the states are equal to the bit. `SpeechLoss` joins log-mel, encoder, decoder and loss to
the module that is trained.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whisper_shard.errors import ConfigError
from whisper_shard.model.borrowed_silence import STRIDE, SilenceStates, replicate_edge
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.loss import token_loss
from whisper_shard.model.spec_augment import spec_augment
from whisper_shard.model.window import MAX_FRAMES, fit_window, longest_window
from whisper_shard.utterance import HOP_LENGTH


class SpeechLoss(nn.Module):
    """Waveforms and labels to summed loss: log-mel, encoder, decoder and loss as one module.

    Its only parameters are the model's.

    Args:
        model: WhisperForConditionalGeneration.
        label_smoothing: See `token_loss`.
        stochastic_depth: See `encode`.
        spec_augment: Keyword arguments of `spec_augment`; None: no masks.
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
        silence: SilenceStates | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (sum of token losses, number of tokens), float32 scalars.

        Args:
            waveforms: (B, S) float32 or int16, zeros behind each row's end; S a multiple of 2 * HOP_LENGTH.
            decoder_input_ids: (B, L).
            labels: (B, L), IGNORE_INDEX at positions that do not count.
            num_samples: (B,) real samples of each row.
            seeds: One integer a row, for SpecAugment; needed when it is on and the module trains.
            kept: See `token_loss`.
            silence: From `encode_silence`: shared with every row of a short window; None: nothing is shared.

        Raises:
            ConfigError: Seeds are missing, or the encoder cannot take the window.
        """
        log_mel = self.log_mel(waveforms)
        if self.spec_augment is not None and self.training:
            if seeds is None:
                raise ConfigError("SpecAugment needs one seed for each row of the batch")
            num_frames = (num_samples // HOP_LENGTH).clamp(max=MAX_FRAMES)
            log_mel = spec_augment(log_mel, num_frames, seeds=seeds, **self.spec_augment)
        encoder_states = encode(self.model, log_mel, stochastic_depth=self.stochastic_depth, silence=silence)
        decoder_states = decode_teacher_forced(self.model, encoder_states, decoder_input_ids, silence)
        return token_loss(
            decoder_states,
            self.model.proj_out.weight,
            labels,
            label_smoothing=self.label_smoothing,
            kept=kept,
        )

    def encode_silence(self, waveform: Tensor) -> SilenceStates:
        """Return the states of the silence after an utterance, (1, S) waveform; see `encode_silence`."""
        return encode_silence(self.model, self.log_mel, waveform)


def encode(
    model: Any, log_mel: Tensor, *, stochastic_depth: float = 0.0, silence: SilenceStates | None = None
) -> Tensor:
    """Return encoder states of a window of any length up to the model's own, (B, T // 2, D).

    Dropout works as in Hugging Face's encoder when the model trains.

    Args:
        model: WhisperForConditionalGeneration.
        log_mel: (B, M, T), T even, at most 3,000.
        stochastic_depth: Probability that a row skips a layer, when training, 0 to 1.
        silence: Shared with all rows as further keys and values; None: nothing.

    Raises:
        ConfigError: The window is longer than the model's positions or has an odd number of frames.
    """
    depth = stochastic_depth if model.training else 0.0
    *_, hidden = _layer_states(model, log_mel, stochastic_depth=depth, silence=silence)
    normed: Tensor = model.model.encoder.layer_norm(hidden)
    return normed


def _layer_states(
    model: Any, log_mel: Tensor, *, stochastic_depth: float = 0.0, silence: SilenceStates | None = None
) -> Iterator[Tensor]:
    """Yield the input of each encoder layer and the output of the last, (B, T // 2, D); see `encode`."""
    encoder = model.model.encoder
    num_frames = log_mel.shape[-1]
    max_frames = 2 * encoder.embed_positions.weight.shape[0]
    if num_frames % 2 or not 0 < num_frames <= max_frames:
        raise ConfigError(f"window of {num_frames} frames: the encoder needs an even number of 2 to {max_frames}")
    log_mel = log_mel if silence is None else replicate_edge(log_mel)
    hidden = functional.gelu(encoder.conv1(log_mel))
    hidden = functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)[:, : num_frames // 2]
    hidden = hidden + encoder.embed_positions.weight[: num_frames // 2]
    hidden = functional.dropout(hidden, p=encoder.dropout, training=encoder.training)
    yield hidden
    for number, layer in enumerate(encoder.layers):
        shared = {}
        if silence is not None:
            shared = silence.share(silence.from_position(number, num_frames // 2), layer.self_attn_layer_norm)
        hidden = _skip_at_random(hidden, layer(hidden, None, **shared), stochastic_depth)
        yield hidden


def _skip_at_random(before: Tensor, after: Tensor, probability: float) -> Tensor:
    """Let each row skip a layer with this probability; scale the others, so that the expectation stays the same.

    Source: Deep Networks with Stochastic Depth, arXiv:1603.09382.
    """
    if probability == 0.0:
        return after
    keep = 1.0 - probability
    # A mask instead of a branch: the graph is the same for every draw, and nothing waits for the device.
    mask = torch.empty(len(before), 1, 1, device=before.device, dtype=before.dtype).bernoulli_(keep).div_(keep)
    return before + mask * (after - before)


def decode_teacher_forced(
    model: Any, encoder_states: Tensor, decoder_input_ids: Tensor, silence: SilenceStates | None = None
) -> Tensor:
    """Return decoder states, (B, L, D).

    Args:
        model: WhisperForConditionalGeneration.
        encoder_states: (B, T // 2, D), from `encode`.
        decoder_input_ids: (B, L), padded at the end.
        silence: What `encode` was given.
    """
    decoder = model.model.decoder
    positions = decoder.embed_positions.weight[: decoder_input_ids.shape[1]]
    hidden = decoder.embed_tokens(decoder_input_ids) + positions
    hidden = functional.dropout(hidden, p=decoder.dropout, training=decoder.training)
    shared = {}
    if silence is not None:
        states = silence.from_position(-1, encoder_states.shape[1])
        shared = silence.share(model.model.encoder.layer_norm(states))
    # Without a mask attention is causal by a flag, which keeps the fastest kernels; padding at the end needs none,
    # since no real token attends to a later one. Nothing here waits for the device.
    for layer in decoder.layers:
        hidden = layer(hidden, None, encoder_states, use_cache=False, **shared)
    normed: Tensor = decoder.layer_norm(hidden)
    return normed


def encode_silence(model: Any, log_mel: LogMel, waveform: Tensor) -> SilenceStates:
    """Return the states of the silence after an utterance, padded to the model's own window, with current weights.

    Args:
        model: WhisperForConditionalGeneration.
        log_mel: Computes its spectrograms.
        waveform: (1, S) of the silence source, no longer than the model's window.
    """
    window = fit_window(waveform, longest_window(model))
    return trailing_silence(model, log_mel(window), num_frames=waveform.shape[1] // HOP_LENGTH)


@torch.no_grad()  # constants: the encoder is not differentiated a second time, for rows that are nearly all silence
def trailing_silence(model: Any, log_mel: Tensor, *, num_frames: int, stride: int = STRIDE) -> SilenceStates:
    """Return the states behind the first frames of a window, without gradient, as in evaluation.

    Args:
        model: WhisperForConditionalGeneration; dropout is off for the time.
        log_mel: (1, M, T) of the silence source, zero-padded to the model's own window.
        num_frames: Frames of speech.
        stride: Of so many positions one is kept.
    """
    first = math.ceil(num_frames / 2)
    was_training = model.training
    model.eval()
    states = tuple(hidden[:, first::stride] for hidden in _layer_states(model, log_mel))
    model.train(was_training)
    return SilenceStates(states=states, first_position=first, stride=stride)
