import pytest
import torch
from torch import nn
from torch.nn import functional

from whisper_shard.inference.linear import FEW_ROWS, fuse_projections, join_heads, linear, split_heads

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("rows", [1, FEW_ROWS[0], FEW_ROWS[-1], FEW_ROWS.stop])
@pytest.mark.parametrize("with_bias", [True, False])
@torch.no_grad()
def test_few_rows_give_the_same_product(rows, with_bias):
    layer = nn.Linear(32, 48, bias=with_bias)
    states = torch.randn(rows, 1, 32, generator=GENERATOR)
    product = linear(states, layer.weight, layer.bias)
    assert product.is_contiguous()
    torch.testing.assert_close(product, functional.linear(states, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_fused_projections_are_side_by_side_and_a_missing_bias_is_zero():
    layers = [nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)]
    states = torch.randn(2, 3, 8, generator=GENERATOR)
    fused = functional.linear(states, *fuse_projections(layers, torch.float32))
    torch.testing.assert_close(fused, torch.cat([layer(states) for layer in layers], dim=-1))


def test_heads_are_split_and_joined():
    states = torch.randn(2, 5, 24, generator=GENERATOR)
    parts = split_heads(states, 2, parts=3)
    assert [tuple(part.shape) for part in parts] == [(2, 2, 5, 4)] * 3
    assert torch.equal(torch.cat([join_heads(part) for part in parts], dim=-1), states)
