"""Forward passes: encode windows of any length, decode with teacher forcing, and the loss of a batch.

Hugging Face's encoder accepts exactly 30 s. `encode` calls the same layers with the first positions only, so a window
of 5 s costs a sixth; at 30 s the numbers are equal to the bit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whisper_shard.errors import ConfigError
from whisper_shard.model.borrowed_silence import STRIDE, Silence, without_edge
from whisper_shard.model.log_mel import MAX_FRAMES, LogMel
from whisper_shard.model.loss import token_loss
from whisper_shard.model.spec_augment import spec_augment
from whisper_shard.utterance import HOP_LENGTH


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
