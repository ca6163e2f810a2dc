from whisper_shard.export.names import byte_characters, openai_name, openai_weights, text_tokens


def test_names_of_the_original_package(tiny):
    names = dict(openai_weights(tiny.model))
    assert "decoder.token_embedding.weight" in names and "decoder.proj.weight" not in names
    assert openai_name("model.encoder.layers.3.self_attn.k_proj.weight") == "encoder.blocks.3.attn.key.weight"
    assert openai_name("model.decoder.layers.0.encoder_attn_layer_norm.bias") == "decoder.blocks.0.cross_attn_ln.bias"
    assert openai_name("model.decoder.layers.0.final_layer_norm.bias") == "decoder.blocks.0.mlp_ln.bias"
    assert openai_name("model.encoder.layer_norm.weight") == "encoder.ln_post.weight"
    assert openai_name("model.decoder.embed_positions.weight") == "decoder.positional_embedding"
    assert not any(word in name for name in names for word in ("proj", "layer", "fc", "embed_", "model."))


def test_text_tokens_are_bytes(tiny):
    tokens = text_tokens(tiny)
    assert {bytes([byte]) for byte in range(256)} <= set(tokens)
    assert any(token.startswith(b" ") and len(token) > 1 for token in tokens), "spaces are bytes, not letters"
    assert len(set(byte_characters().values())) == 256
