"""The learning rate rises, peaks and falls where it should."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from whisper_shard.train.schedule import cosine_factor, count_warmup_steps


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 7), (5, 40), (3, 4), (10, 10)])
def test_factor_equals_transformers(warmup_steps, total_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, warmup_steps, total_steps)
    for update in range(total_steps):
        ours = cosine_factor(update, warmup_steps=warmup_steps, total_steps=total_steps)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), update
        optimizer.step()
        theirs.step()


def test_factor_ends_at_the_minimum_and_stays_there():
    factors = [cosine_factor(u, warmup_steps=2, total_steps=10, min_factor=0.1) for u in (0, 1, 2, 6, 10, 25)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 0), (0.05, 5), (0.051, 6), (1.0, 100)])
def test_share_of_steps_is_rounded_up(warmup, steps):
    assert count_warmup_steps(warmup, 100) == steps
