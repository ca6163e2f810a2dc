"""One optimizer step: the same gradient however it is cut, and nothing changed by what is not finite."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.making import WORDS, make_dataset
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.train import TrainConfig
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import TrainingError
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.model.labels import Labeler
from whisper_shard.stream.loader import open_loader
from whisper_shard.train.build import build_optimizer, build_trainable
from whisper_shard.train.global_batch import GlobalBatchBuilder, Requests
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.context import Machine
from whisper_shard.train.step import TrainStep
from whisper_shard.train.windows import PassLimit
from whisper_shard.utterance import SAMPLE_RATE

CPU = torch.device("cpu")
SECONDS = np.random.default_rng(1).uniform(0.3, 4.0, 16).tolist()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A random Whisper with a window of 6 s, so that full windows are cheap."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"width": 32, "encoder_layers": 2, "decoder_layers": 2, "heads": 2, "max_seconds": 6}
    return make_tiny_whisper(folder, texts=WORDS, **sizes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("step") / "train", SECONDS, per_shard=16)


def make_train_step(tiny, network=None, **settings):
    config = replace_settings(TrainConfig(), {"batch_size": 16, "lr": 1e-3, "weight_decay": 0.1, **settings})
    machine = Machine(device=CPU, dtype=torch.float32, ranks=Ranks())
    trainable = build_trainable(tiny, config, machine)
    if network is not None:
        trainable = replace(trainable, network=network, optimizer=build_optimizer(network.model, config.optimizer))
    builder = GlobalBatchBuilder(
        labeler=Labeler(tiny.tokenizer), config=config, ranks=Ranks(), total_steps=100,
        longest_window=trainable.longest_window,
    )  # fmt: skip
    return TrainStep(trainable, builder, config, machine)


def one_batch(dataset, **settings):
    config = StreamConfig(**{"batch_size": 16, "workers": 0, "augment": (), **settings})
    return next(iter(open_loader(dataset, config)))


def gradients_of(tiny, batch, **settings):
    train_step = make_train_step(tiny, **settings)
    global_batch = train_step.builder.build(batch, 3, Requests())
    passes = train_step._accumulate(global_batch, 3)
    return {name: p.grad.clone() for name, p in tiny.model.named_parameters() if p.grad is not None}, passes


def test_one_pass_and_many_give_the_same_gradient(tiny, dataset):
    batch = one_batch(dataset)
    whole, passes = gradients_of(tiny, batch, micro_batch=16, window="full")
    assert len(passes) == 1
    parts, passes = gradients_of(tiny, batch, micro_batch=4, window="full")
    assert len(passes) == 4
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_size_of_a_pass_changes_nothing_in_short_windows_either(tiny, dataset):
    batch = one_batch(dataset)
    few, few_passes = gradients_of(tiny, batch, micro_batch=16)
    many, many_passes = gradients_of(tiny, batch, micro_batch=1)
    assert len(many_passes) > 2 * len(few_passes)
    for name, gradient in few.items():
        torch.testing.assert_close(many[name], gradient, rtol=1e-4, atol=1e-6)


def test_loss_is_that_of_hugging_face_over_all_tokens(tiny, dataset):
    train_step = make_train_step(tiny, window="full")
    batch = one_batch(dataset)
    result = train_step(batch, step=0, lr=0.0, requests=Requests())
    labels = train_step.builder.labeler.label_batch(batch.texts)
    features = tiny.processor.feature_extractor(
        [w[:n].numpy() for w, n in zip(batch.waveforms, batch.num_samples, strict=True)],
        sampling_rate=SAMPLE_RATE, return_tensors="pt",
    ).input_features  # fmt: skip
    with torch.no_grad():
        out = tiny.model(input_features=features, decoder_input_ids=labels.decoder_input_ids, labels=labels.labels)
    assert result.read()[0] == pytest.approx(out.loss.item(), rel=1e-4)
    assert result.global_batch.num_tokens == int((labels.labels >= 0).sum())


class TightMemory(SpeechLoss):
    """A network that runs out of memory above some seconds a pass, in the backward pass as real ones do."""

    def __init__(self, model, run_out, budget_seconds=40.0):
        super().__init__(model)
        self.run_out, self.budget_seconds = run_out, budget_seconds

    def forward(self, waveforms, *inputs, **keywords):
        loss, tokens = super().forward(waveforms, *inputs, **keywords)
        if waveforms.numel() / SAMPLE_RATE > self.budget_seconds:
            loss.register_hook(self.run_out)
        return loss, tokens


def run_out_on_gpu(_gradient):
    raise torch.OutOfMemoryError("tried to allocate 2 GiB")


def run_out_on_cpu(_gradient):
    torch.empty(2**50)


def run_out_elsewhere(_gradient):
    np.empty(2**55)


@pytest.mark.parametrize("run_out", [run_out_on_gpu, run_out_on_cpu, run_out_elsewhere])
def test_running_out_of_memory_halves_the_pass_and_changes_nothing(tiny, dataset, run_out):
    batch = one_batch(dataset)
    expected, _ = gradients_of(tiny, batch)
    train_step = make_train_step(tiny, network=TightMemory(tiny.model, run_out))
    train_step.limit = PassLimit(utterances=16)
    passes = train_step._accumulate(train_step.builder.build(batch, 3, Requests()), 3)
    assert max(len(p.rows) * p.window_seconds for p, _ in passes) <= 40.0
    assert sorted(row for p, _ in passes for row in p.rows) == list(range(16))
    for name, parameter in tiny.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_one_utterance_too_many_is_an_error(tiny, dataset):
    network = TightMemory(tiny.model, run_out_on_cpu, budget_seconds=5.0)
    train_step = make_train_step(tiny, network=network, window="full")
    with pytest.raises(TrainingError, match=r"one utterance in a window of 6 s does not fit into the memory of cpu"):
        train_step(one_batch(dataset), step=0, lr=0.0, requests=Requests())


def test_an_optimizer_that_does_not_fit_is_an_error(tiny, dataset, monkeypatch):
    train_step = make_train_step(tiny)
    monkeypatch.setattr(train_step.trainable.optimizer, "step", lambda: run_out_on_cpu(None))
    with pytest.raises(
        TrainingError, match=r"the optimizer's moments do not fit into the memory of cpu; try --optimizer adamw-8bit"
    ):
        train_step(one_batch(dataset), step=0, lr=0.0, requests=Requests())


def test_prompts_of_the_data_are_read(tiny, dataset, tmp_path):
    prompted = make_dataset(tmp_path / "train", SECONDS, per_shard=16, record={"prompt": "six seven"})
    train_step = make_train_step(tiny)
    built = [train_step.builder.build(one_batch(each), 3, Requests()) for each in (dataset, prompted)]
    losses = [sum(float(loss) for _, loss in train_step._accumulate(each, 3)) for each in built]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_nothing_changes_when_the_loss_is_not_finite(tiny, dataset):
    train_step = make_train_step(tiny)
    batch = one_batch(dataset)
    train_step(batch, step=0, lr=1e-3, requests=Requests())
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    batch.waveforms[5, 100] = math.inf
    result = train_step(batch, step=1, lr=1e-3, requests=Requests())
    loss, _, skipped = result.read()
    assert not math.isfinite(loss)
    assert skipped
    assert batch.keys[5] in result.faulty_keys()
    assert len(result.faulty_keys()) < 16, "only the passes that were not finite"
    for name, parameter in tiny.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    batch.waveforms[5, 100] = 0.0
    assert not train_step(batch, step=2, lr=1e-3, requests=Requests()).read()[2]
    assert not torch.equal(tiny.model.model.encoder.conv1.weight, before["model.encoder.conv1.weight"])


def test_a_step_without_usable_rows_changes_nothing_not_even_by_momentum(tiny, dataset):
    train_step = make_train_step(tiny)
    batch = one_batch(dataset)
    train_step(batch, step=0, lr=1e-3, requests=Requests())
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    batch.weights[:] = 0.0
    assert train_step(batch, step=1, lr=1e-3, requests=Requests()).read() == (0.0, 0.0, True)
    for name, parameter in tiny.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_gradients_are_clipped(tiny, dataset):
    train_step = make_train_step(tiny, max_grad_norm=0.01)
    norm = train_step(one_batch(dataset), step=0, lr=0.0, requests=Requests()).read()[1]
    assert norm > 0.01
    clipped = torch.nn.utils.get_total_norm([p.grad for p in train_step.parameters if p.grad is not None])
    assert clipped.item() == pytest.approx(0.01, rel=1e-4)


def test_dropout_depends_on_the_place_in_the_run_only(tiny_folder, dataset):
    from whisper_shard.model.whisper import load_whisper

    batch = one_batch(dataset)
    losses = []
    for step, disturbance in ((3, 1), (3, 2), (4, 1)):
        train_step = make_train_step(load_whisper(str(tiny_folder), dropout=0.3), window="full")
        torch.manual_seed(disturbance)
        losses.append(train_step(batch, step=step, lr=0.0, requests=Requests()).read()[0])
    assert losses[0] == losses[1] != losses[2]


def test_rows_without_weight_do_not_count(tiny, dataset):
    batch = one_batch(dataset)
    train_step = make_train_step(tiny, window="full")
    batch.weights[:10] = 0.0
    result = train_step(batch, step=0, lr=0.0, requests=Requests())
    assert result.global_batch.num_utterances == 6
    assert all(row >= 10 for p, _ in result.passes for row in p.rows)
