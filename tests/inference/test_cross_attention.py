import pytest
import torch

from whisper_shard.inference.cross_attention import (
    AbsorbedCrossAttention,
    ProjectedCrossAttention,
    prepare_cross_attention,
)
from whisper_shard.inference.linear import split_heads


@pytest.mark.parametrize("length", [1, 7])
def test_absorbed_projections_change_no_output(length):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 50, 32, generator=generator)
    weight, bias = torch.randn(64, 32, generator=generator), torch.randn(64, generator=generator)
    bias[:32] = 0
    absorbed = prepare_cross_attention(states, [(weight, bias)], 4)
    assert isinstance(absorbed, AbsorbedCrossAttention), "float32 on a CPU"
    keys, values = split_heads(torch.nn.functional.linear(states, weight, bias), 4, parts=2)
    projected = ProjectedCrossAttention([(keys, values)])
    queries = torch.randn(3, 4, length, 8, generator=generator)
    torch.testing.assert_close(absorbed.attend(0, queries), projected.attend(0, queries), atol=1e-4, rtol=1e-4)
    rows = torch.tensor([2, 0])
    chosen = [each.select(rows).attend(0, queries[rows]) for each in (absorbed, projected)]
    torch.testing.assert_close(chosen[0], absorbed.attend(0, queries)[rows], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chosen[1], projected.attend(0, queries)[rows], atol=1e-5, rtol=1e-5)


def test_bfloat16_keeps_keys_and_values():
    states = torch.zeros(1, 10, 32, dtype=torch.bfloat16)
    projection = torch.zeros(64, 32, dtype=torch.bfloat16), torch.zeros(64, dtype=torch.bfloat16)
    assert isinstance(prepare_cross_attention(states, [projection], 4), ProjectedCrossAttention)
