import pytest
import torch
from torch.nn import functional

from whisper_shard.model import loss as objective
from whisper_shard.model.loss import IGNORE_INDEX, token_loss


def make_case(rows=3, length=7, width=16, vocabulary=50):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, width, generator=generator, dtype=torch.float64).requires_grad_()
    head = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, vocabulary, (rows, length), generator=generator)
    labels[0, 4:] = IGNORE_INDEX
    labels[2, :3] = IGNORE_INDEX
    return hidden.float().detach().requires_grad_(), head.float().detach().requires_grad_(), labels


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_tokens", [4, 1000])
@pytest.mark.parametrize("with_kept", [False, True])
def test_same_as_cross_entropy_on_all_logits(monkeypatch, label_smoothing, chunk_tokens, with_kept):
    monkeypatch.setattr(objective, "CHUNK_TOKENS", chunk_tokens)
    hidden, head, labels = make_case()
    logits = functional.linear(hidden, head).flatten(0, 1)
    expected = functional.cross_entropy(
        logits, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )
    kept = (labels.flatten() != IGNORE_INDEX).nonzero()[:, 0] if with_kept else None
    loss, num_tokens = token_loss(hidden, head, labels, label_smoothing=label_smoothing, kept=kept)
    torch.testing.assert_close(loss, expected)
    assert num_tokens == 15
    for ours, theirs in zip(gradients(loss, hidden, head), gradients(expected, hidden, head), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_sums_add_up_over_any_split_of_the_batch():
    hidden, head, labels = make_case()
    whole, count = token_loss(hidden, head, labels)
    parts = [token_loss(hidden[i : i + 1], head, labels[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    assert sum(int(number) for _, number in parts) == int(count)


def test_batch_without_any_label_costs_nothing_and_has_a_gradient():
    hidden, head, labels = make_case()
    loss, num_tokens = token_loss(hidden, head, torch.full_like(labels, IGNORE_INDEX))
    assert (loss.item(), num_tokens.item()) == (0.0, 0.0)
    assert all((gradient == 0).all() for gradient in gradients(loss, hidden, head))
