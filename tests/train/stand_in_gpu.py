"""Runs the real optimizer step and the real evaluation over a CUDA device without data, and says what waits for it.

Called by `test_gpu` in a process of its own: ``python -m tests.train.stand_in_gpu LIBRARY FOLDER CASE``, where LIBRARY
is the compiled `stand_in_gpu.cpp` and FOLDER a task of `running.make_task`. What is proven: every tensor of a step lies
on the right device, number formats fit together under autocast, forward and backward, and nothing waits for the
device: no number is read back, no copy to or from it is synchronous. What is not: values, kernels, memory, speed.

Prints what waited for the device, one line each, and "done".
"""

import ctypes
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.train.running import tiny_config
from whisper_shard.dataset.index import open_dataset
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.encoder import InferenceEncoder
from whisper_shard.inference.greedy import GreedyDecoder, SuppressRules
from whisper_shard.model.averaging import MovingAverage
from whisper_shard.model.borrowed_silence import attention_bias
from whisper_shard.model.device import send
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import load_whisper
from whisper_shard.stream.loader import open_loader
from whisper_shard.train.build import build_network, build_optimizer, make_scaler
from whisper_shard.train.global_batch import GlobalBatchBuilder, Requests
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.context import Machine
from whisper_shard.train.run.snapshot import Trainable
from whisper_shard.train.silence_source import find_silence_source
from whisper_shard.train.step import TrainStep

CUDA = torch.device("cuda:0")
CASES = {
    "silence bf16": {"dtype": torch.bfloat16},
    "silence fp16": {"dtype": torch.float16},
    "silence fp32": {"dtype": torch.float32},
    "everything": {
        "dtype": torch.float16, "spec_augment": True, "stochastic_depth": 0.1, "label_smoothing": 0.1, "ema": 0.9,
        "gradient_checkpointing": True, "timestamps": 0.5, "micro_batch": 2, "dropout": 0.1,
    },
    "lora": {"dtype": torch.bfloat16, "lora_rank": 2, "freeze_layers": 1},
    "full": {"dtype": torch.bfloat16, "window": "full", "freeze_encoder": True},
}  # fmt: skip


class Event:
    """Stands in for torch.cuda.Event."""

    def record(self) -> None:
        pass


class Watch(TorchDispatchMode):
    """Notes copies between host and GPU that the host would wait for, and indices of the host into the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.num_on_gpu = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        kinds = {tensor.device.type for tensor in tensors}
        found = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)}
        self.num_on_gpu += "cuda" in found
        if "cuda" in kinds | found and "cpu" in kinds | found and not self._is_fine(func, tensors, args, kwargs or {}):
            self.waits.append(f"{func}({', '.join(f'{t.device.type} {t.dtype} {tuple(t.shape)}' for t in tensors)})")
        return result

    def _is_fine(self, func, tensors, args, kwargs) -> bool:
        """Numbers of the host as operands travel with the kernel's call; copies must start from page-locked memory."""
        host = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            is_async = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            return bool(is_async) and all(getattr(tensor, "is_page_locked", False) for tensor in host)
        return "index" not in func.name() and all(tensor.dim() == 0 for tensor in host)


def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Stand in for Tensor.pin_memory, where tensors with data end."""
    locked = real_empty(tensor.shape, dtype=tensor.dtype)
    locked.is_page_locked = True
    return locked


def page_locked(*shape, **keywords) -> torch.Tensor:
    """Stand in for torch.empty."""
    is_locked = keywords.pop("pin_memory", False)
    made = real_empty(*shape, **keywords)
    made.is_page_locked = is_locked
    return made


def without_data(network: torch.nn.Module) -> torch.nn.Module:
    """Put tensors without data, on the device, in place of all of a module's; tied ones stay tied."""
    moved: dict[int, torch.Tensor] = {}
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in moved:
                    empty = real_empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
                    is_learned = isinstance(tensor, torch.nn.Parameter)
                    moved[id(tensor)] = torch.nn.Parameter(empty, tensor.requires_grad) if is_learned else empty
                tensors[name] = None if tensor is None else moved[id(tensor)]
    return network


class HostLabeler(Labeler):
    """Labels are made on the host and have values."""

    def collate(self, rows, **more):
        with unset_fake_temporarily():
            return super().collate(rows, **more)


class HostBuilder(GlobalBatchBuilder):
    """What ranks exchange is counted on the host and has values."""

    def build(self, *args):
        with unset_fake_temporarily():
            return super().build(*args)


def take_steps(mode, loaded, config, data, dtype) -> Watch:
    """Two real steps: the first makes the optimizer's state."""
    batches = [batch for _, batch in zip(range(2), open_loader(data, config.stream), strict=False)]
    machine = Machine(device=CUDA, dtype=dtype, ranks=Ranks())
    silence_source = find_silence_source([data]).waveform if config.window.borrows_silence else None
    watch = Watch()
    network = build_network(loaded, config, torch.device("cpu"))
    with mode:
        without_data(network)
        trainable = Trainable(
            network=network, optimizer=build_optimizer(network.model, config.optimizer), scaler=make_scaler(machine),
            average=MovingAverage.of(network.model, config.evaluation.ema) if config.evaluation.ema else None,
        )  # fmt: skip
        builder = HostBuilder(
            labeler=HostLabeler(loaded.tokenizer), config=config, ranks=machine.ranks, total_steps=100,
            longest_window=trainable.longest_window,
        )  # fmt: skip
        train_step = TrainStep(trainable, builder, config, machine, silence_source)
        for step, batch in enumerate(batches):
            with watch:
                result = train_step(batch, step=step, lr=1e-3, requests=Requests())
            assert result.ready is not None
            assert result.passes
        assert trainable.scaler.is_enabled() == (dtype == torch.float16)
        for parameter in train_step.parameters:
            assert parameter.device == parameter.grad.device == CUDA
            assert parameter.dtype == parameter.grad.dtype == torch.float32
            assert {value.device for value in trainable.optimizer.state[parameter].values()} == {CUDA}
    return watch


def evaluate(mode, loaded, config, data, dtype) -> Watch:
    """What of an evaluation has no loop that depends on data: encoder, draft and one step of decoding."""
    watch, silence_source = Watch(), find_silence_source([data]).waveform
    network = build_network(loaded, config, torch.device("cpu")).eval()
    with mode:
        without_data(network)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            silence = network.encode_silence(send(silence_source, CUDA))
        encoder, decoder = InferenceEncoder(network.model, dtype), InferenceDecoder(network.model, dtype)
        greedy = GreedyDecoder(decoder, end_id=0, rules=SuppressRules(always=(1, 2), at_begin=(3,)))
        with watch:
            log_mel = network.log_mel(torch.zeros(3, 32_000, device=CUDA))
            hidden = encoder.encode(log_mel, silence)
            behind = encoder.silence_states(silence, hidden.shape[1])
            bias = attention_bias(hidden.new_zeros((), dtype=dtype), hidden.shape[1], behind.shape[1], silence.stride)
            hidden = torch.cat([hidden, behind.expand(3, -1, -1)], dim=1)
            tokens = torch.zeros(3, 4, dtype=torch.int64, device=CUDA)
            caches = decoder.start(hidden, 8, bias)
            states = decoder.prefill(tokens, caches)
            states = decoder.step(tokens[:, 0], tokens[:, 1], caches, 8)
            logits = decoder.logits(states)
            assert logits.dtype == torch.float32
            assert greedy._choose(logits).device == CUDA
    return watch


def main() -> None:
    torch.set_num_threads(1)
    torch.cuda.is_available = torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.Event = Event
    torch.Tensor.pin_memory = pin_memory
    torch.Tensor.is_pinned = lambda tensor: getattr(tensor, "is_page_locked", False)
    torch.empty = page_locked
    folder, settings = Path(sys.argv[2]), dict(CASES[sys.argv[3]])
    dtype = settings.pop("dtype")
    config = tiny_config(folder, augment=(), sample_format="int16", **settings)
    data = open_dataset(folder / "train")
    for work in (take_steps, evaluate):
        loaded = load_whisper(str(folder / "tiny"), dropout=config.regularization.dropout)
        watch = work(FakeTensorMode(allow_non_fake_inputs=True), loaded, config, data, dtype)
        assert watch.num_on_gpu > 50, watch.num_on_gpu
        for line in watch.waits:
            print(f"{work.__name__} waits: {line}")
    print("done", flush=True)
    os._exit(0)  # autograd has threads for a device that does not exist


real_empty = torch.empty
if __name__ == "__main__":
    main()
