"""Format onnx, in the layout of sherpa-onnx: encoder, decoder with caches as inputs and outputs, and the tokens.

The encoder takes log-mel spectrograms of up to 30 s and returns the keys and values of cross-attention of all decoder
layers. The decoder takes tokens, the caches of self-attention, those keys and values and the position of the first
token. optimum-onnx 0.1.0 wants transformers below 4.58, so the graphs come from torch.onnx.

Source of names, shapes and metadata: scripts/whisper/export-onnx.py and offline-whisper-model.cc of k2-fsa/sherpa-onnx.
"""

import base64
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whisper_shard.errors import ConfigError
from whisper_shard.export.format import ExportFormat
from whisper_shard.export.names import check_vocabulary, text_tokens
from whisper_shard.export.openai import dimensions
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.model.window import MAX_FRAMES

ENCODER, DECODER, TOKENS = "encoder.onnx", "decoder.onnx", "tokens.txt"
"""Names of the files."""
DTYPES = ("float32", "int8")
"""int8: weights of matrix products only, by onnxruntime's dynamic quantization."""
_OPSET = 18
_MAX_INLINE_BYTES = 1_500_000_000  # a file of protobuf ends at 2 GB; beyond, weights go into a file beside it


class SherpaEncoder(nn.Module):
    """Log-mel spectrogram to keys and values of cross-attention.

    Args:
        model: WhisperForConditionalGeneration.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.model.encoder
        self.layers = model.model.decoder.layers
        self.num_heads = model.config.encoder_attention_heads

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, (layers, B, T // 2, D) each, of spectrograms (B, n_mels, T)."""
        states = functional.gelu(self.encoder.conv1(mel))
        states = functional.gelu(self.encoder.conv2(states)).transpose(1, 2)
        states = states + self.encoder.embed_positions.weight[: states.shape[1]]
        for layer in self.encoder.layers:
            normed = layer.self_attn_layer_norm(states)
            attention = layer.self_attn
            keys, values = attention.k_proj(normed), attention.v_proj(normed)
            states = states + _attend(attention, normed, keys, values, num_heads=self.num_heads)
            states = states + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(states))))
        states = self.encoder.layer_norm(states)
        keys = torch.stack([layer.encoder_attn.k_proj(states) for layer in self.layers])
        return keys, torch.stack([layer.encoder_attn.v_proj(states) for layer in self.layers])


class SherpaDecoder(nn.Module):
    """Tokens to logits, with caches that go in and come out.

    Args:
        model: WhisperForConditionalGeneration.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder = model.model.decoder
        self.num_heads = model.config.decoder_attention_heads

    def forward(  # noqa: PLR0917 - the exporter passes by position
        self, tokens: Tensor, self_k: Tensor, self_v: Tensor, cross_k: Tensor, cross_v: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, L, vocabulary) and both caches.

        Args:
            tokens: (B, L).
            self_k: (layers, B, positions, D) keys of the tokens before; what lies after them is ignored.
            self_v: Values, likewise.
            cross_k: (layers, B, T // 2, D).
            cross_v: (layers, B, T // 2, D).
            offset: (1,) position of the first token.
        """
        positions = offset + torch.arange(tokens.shape[1])
        mask = torch.arange(self_k.shape[2])[None] <= positions[:, None]
        states = self.decoder.embed_tokens(tokens) + self.decoder.embed_positions.weight[positions]
        all_keys, all_values = [], []
        for i, layer in enumerate(self.decoder.layers):
            normed = layer.self_attn_layer_norm(states)
            keys = self_k[i].index_copy(1, positions, layer.self_attn.k_proj(normed))
            values = self_v[i].index_copy(1, positions, layer.self_attn.v_proj(normed))
            states = states + _attend(layer.self_attn, normed, keys, values, num_heads=self.num_heads, mask=mask)
            normed = layer.encoder_attn_layer_norm(states)
            states = states + _attend(layer.encoder_attn, normed, cross_k[i], cross_v[i], num_heads=self.num_heads)
            states = states + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(states))))
            all_keys.append(keys)
            all_values.append(values)
        logits = self.decoder.layer_norm(states) @ self.decoder.embed_tokens.weight.T
        return logits, torch.stack(all_keys), torch.stack(all_values)


def _attend(
    attention: Any, states: Tensor, keys: Tensor, values: Tensor, *, num_heads: int, mask: Tensor | None = None
) -> Tensor:
    """Return (B, L, D) from states (B, L, D), keys and values (B, K, D) and a mask (L, K)."""
    queries, keys, values = (
        projected.unflatten(-1, (num_heads, -1)).transpose(1, 2)
        for projected in (attention.q_proj(states), keys, values)
    )
    scores = queries @ keys.transpose(2, 3) * (queries.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    found: Tensor = attention.out_proj((scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2))
    return found


def write_onnx(loaded: LoadedWhisper, folder: Path, dtype: str) -> None:
    """Write encoder.onnx, decoder.onnx and tokens.txt.

    Args:
        loaded: The model.
        folder: Where to write.
        dtype: One of DTYPES.

    Raises:
        ConfigError: onnx, onnxscript or, for int8, onnxruntime is not installed.
        ExportError: The vocabulary is not Whisper's own.
    """
    check_vocabulary(loaded, "sherpa-onnx")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--format onnx needs {error.name}: pip install 'whisper-shard[export]'") from error
    _export_encoder(loaded, folder / ENCODER)
    _export_decoder(loaded, folder / DECODER)
    lines = (f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(text_tokens(loaded)))
    (folder / TOKENS).write_text("".join(lines), "ascii")
    if dtype == "int8":
        for name in (ENCODER, DECODER):
            _quantize(folder / name)


def _export_encoder(loaded: LoadedWhisper, path: Path) -> None:
    batch, frames = torch.export.Dim("n_audio", min=1, max=64), torch.export.Dim("half_frames", max=MAX_FRAMES // 2)
    _export(
        SherpaEncoder(loaded.model),
        (torch.zeros(2, loaded.n_mels, MAX_FRAMES // 2),),
        path,
        input_names=["mel"],
        output_names=["n_layer_cross_k", "n_layer_cross_v"],
        dynamic_shapes=({0: batch, 2: 2 * frames},),
    )
    _add_metadata(path, metadata(loaded))


def _export_decoder(loaded: LoadedWhisper, path: Path) -> None:
    config = loaded.model.config
    caches = torch.zeros(2, config.decoder_layers, 2, config.max_target_positions, config.d_model)
    cross = torch.zeros(2, config.decoder_layers, 2, MAX_FRAMES // 4, config.d_model)
    batch = torch.export.Dim("n_audio", min=1, max=64)
    length = torch.export.Dim("n_tokens", min=1, max=config.max_target_positions)
    positions = torch.export.Dim("n_positions", min=1, max=MAX_FRAMES // 2)
    cache_shape, cross_shape = {1: batch}, {1: batch, 2: positions}
    _export(
        SherpaDecoder(loaded.model),
        (torch.zeros(2, 4, dtype=torch.int64), *caches, *cross, torch.zeros(1, dtype=torch.int64)),
        path,
        input_names=[
            "tokens", "in_n_layer_self_k_cache", "in_n_layer_self_v_cache", "n_layer_cross_k", "n_layer_cross_v",
            "offset",
        ],
        output_names=["logits", "out_n_layer_self_k_cache", "out_n_layer_self_v_cache"],
        dynamic_shapes=({0: batch, 1: length}, cache_shape, cache_shape, cross_shape, cross_shape, {}),
    )  # fmt: skip


def _export(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, **settings: Any) -> None:
    num_bytes = sum(4 * parameter.numel() for parameter in module.parameters())
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            dynamo=True,
            opset_version=_OPSET,
            external_data=num_bytes > _MAX_INLINE_BYTES,
            verbose=False,
            **settings,
        )


def metadata(loaded: LoadedWhisper) -> dict[str, str]:
    """Return what sherpa-onnx reads from the encoder: dimensions and the numbers of special tokens."""
    vocabulary = loaded.tokenizer.get_vocab()
    start = vocabulary["<|startoftranscript|>"]
    prefix = [start]
    languages: dict[str, int] = {}
    if loaded.is_multilingual:
        ids = range(start + 1, vocabulary["<|translate|>"])
        languages = {loaded.tokenizer.convert_ids_to_tokens(number)[2:-2]: number for number in ids}
        prefix += [languages["en"], vocabulary["<|transcribe|>"]]
    values = {
        "model_type": "whisper",
        "version": 1,
        "maintainer": "whisper-shard",
        **dimensions(loaded.model.config),
        "sot_sequence": ",".join(map(str, prefix)),
        "all_language_tokens": ",".join(map(str, languages.values())),
        "all_language_codes": ",".join(languages),
        "sot": start,
        "sot_index": 0,
        "eot": vocabulary["<|endoftext|>"],
        "blank_id": vocabulary["\u0120"],
        "is_multilingual": int(loaded.is_multilingual),
        "no_speech": vocabulary["<|notimestamps|>"] - 1,
        "non_speech_tokens": ",".join(map(str, loaded.model.generation_config.suppress_tokens or ())),
        "transcribe": vocabulary["<|transcribe|>"],
        "translate": vocabulary["<|translate|>"],
        "sot_prev": vocabulary["<|startofprev|>"],
        "sot_lm": vocabulary["<|startoflm|>"],
        "no_timestamps": vocabulary["<|notimestamps|>"],
    }
    return {name: str(value) for name, value in values.items()}


def _add_metadata(path: Path, values: dict[str, str]) -> None:
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    for name, value in values.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = name, value
    onnx.save(graph, str(path))


def _quantize(path: Path) -> None:
    """Replace a model by its quantized form."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_name(f"plain-{path.name}")
    path.rename(plain)
    with _quiet():
        quantize_dynamic(plain, path, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    plain.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters say of their own progress from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


ONNX = ExportFormat(tool="sherpa-onnx", dtypes=DTYPES, write=write_onnx)
