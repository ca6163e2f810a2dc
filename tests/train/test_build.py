"""What a run builds before its first step."""

from whisper_shard.config.train import OptimizerConfig
from whisper_shard.train.build import build_optimizer


def test_norms_biases_and_positions_are_not_decayed(tiny):
    optimizer = build_optimizer(tiny.model, OptimizerConfig(weight_decay=0.1))
    names = {id(p): name for name, p in tiny.model.named_parameters()}
    decayed, exempt = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {"model.decoder.embed_tokens.weight", "model.encoder.conv1.weight"} <= decayed
    assert {"model.decoder.embed_positions.weight", "model.encoder.layer_norm.weight"} <= exempt
    assert not any("bias" in name or "norm" in name or "embed_positions" in name for name in decayed)
    trained = {name for name, p in tiny.model.named_parameters() if p.requires_grad}
    assert decayed | exempt == trained
