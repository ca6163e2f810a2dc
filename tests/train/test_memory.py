"""The memory of a step, found without allocating it, is what the allocator of a CPU measures."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import bench_memory
from tests.train.running import on_ranks
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import ConfigError
from whisper_shard.model.device import autocast
from whisper_shard.model.window import longest_window
from whisper_shard.train import memory
from whisper_shard.train.build import adapt_model, build_optimizer, wrap_model
from whisper_shard.train.events import PassShape
from whisper_shard.train.memory import estimate_memory
from whisper_shard.train.sharding import ShardedGradients, shard_network
from whisper_shard.utterance import SAMPLE_RATE

CPU = torch.device("cpu")
SHAPE = PassShape(rows=3, window_samples=6 * SAMPLE_RATE, tokens=40)
FULL = PassShape(rows=2, window_samples=30 * SAMPLE_RATE, tokens=40)
CASES = [
    pytest.param({}, torch.bfloat16, SHAPE, id="auto-bf16"),
    pytest.param({"gradient_checkpointing": True}, torch.bfloat16, FULL, id="checkpointing"),
    pytest.param({"lora_rank": 8, "gradient_checkpointing": True}, torch.bfloat16, FULL, id="lora"),
    pytest.param({"freeze_encoder": True}, torch.bfloat16, SHAPE, id="frozen-encoder"),
    pytest.param(
        {"freeze_layers": 1, "ema": 0.9, "dropout": 0.1}, torch.bfloat16, SHAPE, id="frozen-layer-ema-dropout"
    ),
    pytest.param({"optimizer": "adamw-8bit"}, torch.bfloat16, SHAPE, id="8-bit"),
    pytest.param({"optimizer": "adamw-8bit", "lora_rank": 8}, torch.bfloat16, SHAPE, id="8-bit-lora"),
    pytest.param({"spec_augment": True, "stochastic_depth": 0.1}, torch.float32, SHAPE, id="masks-fp32"),
]


def shaped_like_large():
    """large-v3 at a tenth of its width: 64 a head, 128 mel bins."""
    from transformers import WhisperConfig

    return WhisperConfig(
        d_model=128, encoder_layers=3, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=512, decoder_ffn_dim=512, num_mel_bins=128, vocab_size=5187,
        pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip


def make_two_steps(model_config, config, dtype, shape):
    """Two steps of two passes each, with real tensors."""
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration._from_config(model_config, attn_implementation="sdpa")
    network = wrap_model(adapt_model(model.requires_grad_(True), config, CPU), config, CPU)
    optimizer = build_optimizer(network.model, config.optimizer)
    averages = [p.detach().clone() for p in network.parameters() if p.requires_grad] if config.evaluation.ema else []
    tokens = torch.zeros(shape.rows, shape.tokens, dtype=torch.long)
    for _ in range(2):
        optimizer.zero_grad()
        for _ in range(2):
            with autocast(CPU, dtype):
                silence = None
                if config.window.borrows_silence and shape.window_samples < longest_window(model):
                    silence = network.encode_silence(torch.zeros(1, SAMPLE_RATE))
                loss, _ = network(
                    torch.zeros(shape.rows, shape.window_samples),
                    tokens,
                    tokens,
                    torch.full((shape.rows,), shape.window_samples),
                    seeds=range(shape.rows),
                    kept=torch.arange(tokens.numel()),
                    silence=silence,
                )
            loss.backward()
            del loss, silence
        optimizer.step()
    assert all(average.isfinite().all() for average in averages)


def allocated_peak(work):
    """The most bytes that torch's CPU allocator has given out at a time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        work()
    events = [(e.start_ns(), e.nbytes()) for e in measured.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for _, num_bytes in sorted(events):
        live += num_bytes
        peak = max(peak, live)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "dtype", "shape"), CASES)
def test_the_estimate_is_what_the_allocator_measures(settings, dtype, shape):
    model_config, config = shaped_like_large(), replace_settings(TrainConfig(), settings)
    model_config.dropout = config.regularization.dropout
    state = torch.get_rng_state()
    estimate = estimate_memory(model_config, config, dtype, shape)
    assert torch.equal(torch.get_rng_state(), state), "training draws what it would have drawn without"
    measured = allocated_peak(lambda: make_two_steps(model_config, config, dtype, shape))
    spare = measured
    if config.compute.gradient_checkpointing and not config.regularization.lora_rank:
        # The two gradients of the embedding, which is the head too, are added in place where tensors have data only.
        spare += model_config.vocab_size * model_config.d_model * 4
    assert 0.99 * measured < estimate.total < 1.01 * spare
    assert estimate.activations > 0.3 * measured, "not only what arithmetic would give"


def make_sharded_steps(ranks, settings, dtype, shape):
    """The same steps on one of several ranks; return their peak."""
    from transformers import WhisperForConditionalGeneration

    config, tokens = replace_settings(TrainConfig(), settings), torch.zeros(shape.rows, shape.tokens, dtype=torch.long)

    def work():
        model = WhisperForConditionalGeneration._from_config(shaped_like_large(), attn_implementation="sdpa")
        network = wrap_model(adapt_model(model.requires_grad_(True), config, CPU), config, CPU)
        sharding = shard_network(network, config.compute.shard, ranks)
        optimizer = build_optimizer(network.model, config.optimizer)
        gradients = ShardedGradients(sharding=sharding, parameters=[p for p in network.parameters() if p.requires_grad])
        for _ in range(2):
            gradients.clear()
            for number in range(2):
                if number:
                    gradients.start_last_pass()
                with autocast(CPU, dtype):
                    loss, _ = network(
                        torch.zeros(shape.rows, shape.window_samples),
                        tokens,
                        tokens,
                        torch.full((shape.rows,), shape.window_samples),
                        kept=torch.arange(tokens.numel()),
                    )
                loss.backward()
                del loss
            optimizer.step()

    return allocated_peak(work)


@pytest.mark.slow
@pytest.mark.parametrize(("shard", "world"), [("all", 4), pytest.param("states", 2, marks=pytest.mark.long)])
def test_the_estimate_of_a_rank_is_near_what_its_allocator_measures(shard, world):
    """The engine holds copies for moments that depend on timing: not to the byte."""
    settings, shape = {"shard": shard, "window": "full"}, PassShape(rows=1, window_samples=SAMPLE_RATE, tokens=10)
    config = replace_settings(TrainConfig(), settings)
    estimate = estimate_memory(shaped_like_large(), config, torch.float32, shape, world=world).total
    alone = estimate_memory(shaped_like_large(), config, torch.float32, shape).total
    assert estimate < 0.8 * alone
    for measured in on_ranks(world, make_sharded_steps, settings, torch.float32, shape):
        assert measured == pytest.approx(estimate, rel=0.2)


def test_parts_follow_from_what_is_trained():
    config = replace_settings(TrainConfig(), {"lora_rank": 4, "window": "full"})
    found = estimate_memory(shaped_like_large(), config, torch.bfloat16, FULL)
    assert found.optimizer == 2 * found.gradients < 0.2 * found.weights
    assert found.average == 0
    assert (
        estimate_memory(
            shaped_like_large(), replace_settings(TrainConfig(), {"ema": 0.9}), torch.bfloat16, SHAPE
        ).average
        > 5 * found.gradients
    )


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 40}, {"freeze_encoder": True}])
def test_moments_of_8_bits_are_those_that_bitsandbytes_makes(settings):
    from transformers import WhisperForConditionalGeneration

    config = replace_settings(TrainConfig(), {"optimizer": "adamw-8bit", **settings})
    model = adapt_model(WhisperForConditionalGeneration(shaped_like_large()).requires_grad_(True), config, CPU)
    optimizer = build_optimizer(model, config.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    fields = ("state1", "state2", "absmax1", "absmax2")
    made = [state[field] for state in optimizer.state.values() for field in fields if field in state]
    estimate = estimate_memory(shaped_like_large(), config, torch.bfloat16, SHAPE)
    assert estimate.optimizer == sum(tensor.numel() * tensor.element_size() for tensor in made)
    assert estimate.optimizer < 0.6 * estimate.gradients


# Width, layers, heads, mel bins, tokens. Source: config.json of openai/whisper-tiny, -base, -small, -medium, -large-v3.
PUBLISHED = [
    pytest.param((384, 4, 6, 80, 51865), {}, id="tiny"),
    pytest.param((512, 6, 8, 80, 51865), {"freeze_layers": 3}, id="base"),
    pytest.param((768, 12, 12, 80, 51865), {"lora_rank": 8, "gradient_checkpointing": True}, id="small"),
    pytest.param((1024, 24, 16, 80, 51865), {"ema": 0.9, "freeze_layers": 3, "optimizer": "adamw-8bit"}, id="medium"),
    pytest.param((1280, 32, 20, 128, 51866), {}, id="large-v3"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "settings"), PUBLISHED)
def test_a_few_layers_say_what_all_of_them_need(sizes, settings):
    from transformers import WhisperConfig

    width, layers, heads, mel_bins, tokens = sizes
    model_config = WhisperConfig(
        d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, num_mel_bins=mel_bins,
        vocab_size=tokens,
    )  # fmt: skip
    config = replace_settings(TrainConfig(), settings)
    full = memory._count_parts(model_config, config, torch.bfloat16, SHAPE, layers=(layers, layers)).tolist()
    found = estimate_memory(model_config, config, torch.bfloat16, SHAPE)
    assert (found.weights, found.gradients, found.optimizer, found.average) == tuple(full[:4])
    assert found.activations == max(full[7:])


def test_large_v3_is_counted_without_its_memory():
    import resource

    from transformers import WhisperConfig

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = WhisperConfig(
        d_model=1280, encoder_layers=2, decoder_layers=2, encoder_attention_heads=20, decoder_attention_heads=20,
        encoder_ffn_dim=5120, decoder_ffn_dim=5120, num_mel_bins=128, vocab_size=51866,
    )  # fmt: skip
    found = estimate_memory(large, TrainConfig(), torch.bfloat16, PassShape(rows=64, window_samples=480_000, tokens=99))
    assert found.activations > 5e9
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2e8


def test_more_frozen_layers_than_there_are():
    config = replace_settings(TrainConfig(), {"freeze_layers": 4})
    with pytest.raises(ConfigError, match="--freeze-layers 4: the encoder has 3 layers"):
        estimate_memory(shaped_like_large(), config, torch.bfloat16, SHAPE)


RESULT = json.loads(Path("benchmarks/results/2026-11-29-memory.json").read_text())["memory"]["settings"]


def test_the_table_in_the_document_is_that_of_the_result():
    document = Path("docs/training.md").read_text()
    for setting, found in RESULT.items():
        gb, fits = found["gb"], found["largest_pass"]
        passes = [f"{fits['30 s'][size]}, {fits['8 s'][size]}" for size in ("24 GB", "40 GB", "80 GB")]
        numbers = [gb["weights"], gb["gradients"], gb["optimizer"] + gb["average"], gb["activations"]]
        name = setting if setting == "(none)" else f"`{setting}`"
        assert "| " + " | ".join([name, *(f"{one:.1f}" for one in numbers), *passes]) + " |" in document


@pytest.mark.parametrize("setting", ["--freeze-encoder"])
def test_the_result_is_what_this_code_counts(setting):
    found = bench_memory.count(bench_memory.VARIANTS[setting], rows=1, seconds=30)
    assert {name: round(size / 1e9, 2) for name, size in asdict(found).items()} == RESULT[setting]["gb"]


@pytest.mark.long
def test_all_of_the_result_is_what_this_code_counts():
    assert bench_memory.measure()["settings"] == RESULT
