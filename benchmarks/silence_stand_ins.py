"""Stand-ins for encoded silence, for `bench_silence` only: a loud background, or learned constants."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.silence_corpora import Waveform
from whisper_shard.model.borrowed_silence import SharedKeysValues, SilenceStates
from whisper_shard.model.forward import SpeechLoss, trailing_silence
from whisper_shard.model.window import fit_window, longest_window
from whisper_shard.utterance import HOP_LENGTH

LOUDER_DB = 12.0
"""Level of a background that is lent, above the mean power of the silence source."""
FASTER = 100.0
"""Learning rate of learned constants, in multiples of that of the model's weights.

AdamW moves a value by about its learning rate a step: with 2e-5, constants of size 1 would stay where they began.
"""


class LearnedSilence(nn.Module):
    """A key and a value for each head of each attention layer, trained with the model, in the place of `SilenceStates`.

    They begin as means over encoded silence, and have the weight of all its positions behind a window.

    Args:
        model: WhisperForConditionalGeneration as it is before training.
        silence: What it makes of silence.
    """

    def __init__(self, model: Any, silence: SilenceStates) -> None:
        super().__init__()
        encoder, decoder = model.model.encoder, model.model.decoder
        *states, last = silence.states
        heard = [
            *((e.self_attn, own, e.self_attn_layer_norm) for e, own in zip(encoder.layers, states, strict=True)),
            *((layer.encoder_attn, last, encoder.layer_norm) for layer in decoder.layers),
        ]
        self._silence = silence
        self._places = {id(attention): place for place, (attention, _, _) in enumerate(heard)}
        self.keys, self.values = nn.ParameterList(), nn.ParameterList()
        with torch.no_grad():
            for attention, own, norm in heard:
                shared = silence.share(own, norm)["shared"].project(attention)
                self.keys.append(nn.Parameter(shared.keys.mean(dim=2, keepdim=True)))
                self.values.append(nn.Parameter(shared.values.mean(dim=2, keepdim=True)))

    def from_position(self, layer: int, position: int) -> Tensor:
        """Return states of which only the number matters, as many as silence has at this position and later."""
        return self._silence.from_position(layer, position)

    def share(self, states: Tensor, *_: Any) -> "dict[str, LearnedStates]":
        """Return the constants with the weight of so many states, for any layer and norm; empty if there are none."""
        if states.shape[1] == 0:
            return {}
        return {"shared": LearnedStates(learned=self, weight=self._silence.stride * states.shape[1])}

    def keys_and_values(self, attention: Any) -> tuple[Tensor, Tensor]:
        """Return the constants of an attention layer, (1, heads, 1, head width) each."""
        place = self._places[id(attention)]
        return self.keys[place], self.values[place]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedStates:
    """What attention layers take in the place of `SharedStates`."""

    learned: LearnedSilence
    """The constants of all layers."""
    weight: int
    """Encoder positions that they stand for."""

    def project(self, attention: Any) -> SharedKeysValues:
        """Return the constants of an attention layer."""
        return SharedKeysValues(*self.learned.keys_and_values(attention), self.weight)


def learn_faster(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Give the parameters of a module `FASTER` times the learning rate that each step sets, and no decay."""
    chosen = {id(parameter) for parameter in module.parameters()}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
    optimizer.add_param_group({"params": list(module.parameters()), "weight_decay": 0.0})
    fast = optimizer.param_groups[-1]
    optimizer.register_step_pre_hook(lambda *_: fast.update(lr=FASTER * fast["lr"]))


@contextmanager
def lend_background(make: Callable[[int, np.random.Generator], Waveform]) -> Iterator[None]:
    """For the time, let short windows borrow what the encoder makes of a loud background behind the silence source.

    So does the comparison of windows during training. Real 30 s windows keep their silence.

    Args:
        make: Returns so many samples of a background.
    """

    def encode_background(self: SpeechLoss, waveform: Tensor) -> SilenceStates:
        size = waveform.shape[1]
        window = fit_window(waveform, longest_window(self.model)).clone()
        background = torch.from_numpy(make(window.shape[1] - size, np.random.default_rng(0))).to(window)
        power = waveform.square().mean() / background.square().mean()
        window[:, size:] = background * power.sqrt() * 10 ** (LOUDER_DB / 20)
        return trailing_silence(self.model, self.log_mel(window), num_frames=size // HOP_LENGTH)

    encode_silence = SpeechLoss.encode_silence
    SpeechLoss.encode_silence = encode_background  # type: ignore[method-assign]
    try:
        yield
    finally:
        SpeechLoss.encode_silence = encode_silence  # type: ignore[method-assign]
