"""OpenAI's names of Whisper's weights, and its vocabulary, both of which whisper.cpp and openai-whisper rely on.

Source: openai/whisper model.py and tokenizer.py, https://github.com/openai/whisper
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from whisper_shard.errors import ExportError
from whisper_shard.model.adapters import plain_state_dict
from whisper_shard.model.whisper import LoadedWhisper

VOCABULARIES = {51_864: False, 51_865: True, 51_866: True}
"""Sizes of Whisper's own vocabularies, and whether they are multilingual; the last is that of large-v3 and turbo."""
NUM_TIMESTAMPS = 1501
"""Timestamp tokens, at the end of the vocabulary."""
TEXT_DIGESTS = (
    "5b98216c4cec6ec853c7df2f9f6548b27fea6443eac4c08bb5ea76d9ee3f8fbc",
    "6c3a12d345e638764f3f646a81f16ab08b9a648229cddc89fb341b4bdad3b7ea",
)
"""sha256 of the text tokens, one line of base64 each, of the multilingual and the English vocabulary.

Source: whisper/assets/multilingual.tiktoken and gpt2.tiktoken of openai/whisper.
"""
_RENAMED = (
    (r"\.layers\.", ".blocks."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn\.", ".attn."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
    (r"\.embed_positions\.weight$", ".positional_embedding"),
    (r"\.embed_tokens\.", ".token_embedding."),
)


def openai_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights under OpenAI's names; the output layer is left out, since it is the token embedding.

    Args:
        model: WhisperForConditionalGeneration.
    """
    for name, tensor in plain_state_dict(model).items():
        if name != "proj_out.weight":
            yield openai_name(name), tensor.detach()


def openai_name(name: str) -> str:
    """Return OpenAI's name of a weight of transformers."""
    name = name.removeprefix("model.")
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def check_vocabulary(loaded: LoadedWhisper, tool: str) -> None:
    """Check that the special tokens have the numbers that a tool has built in.

    Raises:
        ExportError: They have others: the vocabulary is not one of Whisper's own.
    """
    size = loaded.model.config.vocab_size
    vocabulary = loaded.tokenizer.get_vocab()
    end = 50_256 + VOCABULARIES.get(size, False)
    expected = {
        "<|endoftext|>": end,
        "<|startoftranscript|>": end + 1,
        "<|notimestamps|>": size - NUM_TIMESTAMPS - 1,
        "<|0.00|>": size - NUM_TIMESTAMPS,
    }
    is_known = VOCABULARIES.get(size) == loaded.is_multilingual
    if not is_known or any(vocabulary.get(token) != number for token, number in expected.items()):
        raise ExportError(
            f"{loaded.path}: its vocabulary of {size:,} tokens is not one of Whisper's own, which {tool} has built in; "
            "export it as hf or ct2"
        )


def check_text_tokens(loaded: LoadedWhisper, tool: str) -> None:
    """Check that the text tokens are Whisper's own, for a tool that does not read them from the export.

    Raises:
        ExportError: They are others.
    """
    if hashlib.sha256(b"\n".join(map(base64.b64encode, text_tokens(loaded)))).hexdigest() not in TEXT_DIGESTS:
        raise ExportError(
            f"{loaded.path}: its text tokens are not Whisper's own, which {tool} has built in; export it as hf or ct2"
        )


def text_tokens(loaded: LoadedWhisper) -> list[bytes]:
    """Return the bytes of each text token, in order of their numbers."""
    backend = loaded.tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(with_added_tokens=False)
    by_number = sorted((number, token) for token, number in vocabulary.items() if number not in added)
    to_byte = {char: byte for byte, char in byte_characters().items()}
    return [bytes(to_byte[char] for char in token) for _, token in by_number]


def byte_characters() -> dict[int, str]:
    """Return the printable character that stands for each byte in a byte-level vocabulary.

    Source: bytes_to_unicode in openai/gpt-2 encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
