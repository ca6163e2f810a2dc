import pytest
import torch

from whisper_shard.model.window import fit_window, longest_window, short_window


@pytest.mark.parametrize(("seconds", "window_seconds"), [(0.3, 2.0), (1.0, 2.0), (4.0, 5.0), (4.001, 5.02)])
def test_short_windows_leave_a_margin(seconds, window_seconds):
    samples = short_window(round(seconds * 16000))
    assert samples == round(window_seconds * 16000)
    assert samples % 320 == 0


def test_waveforms_are_cut_or_padded_to_the_window():
    waveforms = torch.arange(1.0, 7.0).view(2, 3)
    assert fit_window(waveforms, 2).tolist() == [[1.0, 2.0], [4.0, 5.0]]
    assert fit_window(waveforms, 4).tolist() == [[1.0, 2.0, 3.0, 0.0], [4.0, 5.0, 6.0, 0.0]]


def test_the_longest_window_is_the_models_own(tiny):
    assert longest_window(tiny.model) == 480_000
