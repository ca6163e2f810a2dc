import pytest
import torch

from whisper_shard.errors import ConfigError
from whisper_shard.model.device import autocast, choose_device, choose_precision, is_out_of_memory, send, set_threads

CPU = torch.device("cpu")


def test_float32_is_the_choice_on_a_cpu():
    assert choose_precision("auto", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="--precision fp16 does not work on a CPU; use bf16 or fp32"):
        choose_precision("fp16", CPU)


def test_unknown_precision_is_named():
    with pytest.raises(ConfigError, match="--precision int8: unknown; use auto, fp32, bf16, fp16"):
        choose_precision("int8", CPU)


def test_devices_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match="device 'abacus' is unknown to torch"):
        choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"device 'cuda:0': torch .* sees no GPU here; use cpu"):
            choose_device("cuda:0")
        assert choose_device() == CPU


def test_matrix_products_run_in_the_chosen_format():
    ones = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (ones @ ones).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (ones @ ones).dtype == torch.float32


def test_threads_are_set():
    before = torch.get_num_threads()
    try:
        assert set_threads(1) == 1
        assert torch.get_num_threads() == 1
        assert set_threads(0) >= 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    ],
)
def test_memory_that_ran_out_is_known_by_class_or_by_words(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_what_is_sent_to_the_host_stays_there():
    tensor = torch.ones(2)
    assert send(tensor, CPU) is tensor
