import torch

from whisper_shard.model.spec_augment import spec_augment


def make_log_mel(rows=4, frames=400):
    return torch.randn(rows, 80, frames, generator=torch.Generator().manual_seed(0))


def test_spec_augment_hides_only_real_frames():
    log_mel, num_frames = make_log_mel(), torch.tensor([400, 250, 60, 3])
    masked = spec_augment(log_mel, num_frames, seeds=[1, 2, 3, 4], time_masks=6, mel_masks=6)
    changed = masked != log_mel
    for row, frames in enumerate(num_frames.tolist()):
        assert not changed[row, :, frames:].any()
    assert changed[0].float().mean() > 0.02


def test_spec_augment_leaves_its_input_alone():
    log_mel = make_log_mel()
    before = log_mel.clone()
    spec_augment(log_mel, torch.full((4,), 400), seeds=[1, 2, 3, 4])
    assert torch.equal(log_mel, before)


def test_spec_augment_depends_on_the_seed_of_the_row_alone():
    log_mel, num_frames = make_log_mel(), torch.tensor([400, 300, 200, 100])
    together = spec_augment(log_mel, num_frames, seeds=[5, 6, 7, 8])
    alone = spec_augment(log_mel[2:3, :, :220], num_frames[2:3], seeds=[7])
    torch.testing.assert_close(together[2:3, :, :220], alone, atol=1e-6, rtol=0)
    assert torch.equal(spec_augment(log_mel, num_frames, seeds=[5, 6, 7, 8]), together)
    assert not torch.equal(spec_augment(log_mel, num_frames, seeds=[5, 6, 9, 8])[2], together[2])


def test_time_bands_keep_to_their_longest():
    log_mel = make_log_mel(rows=64, frames=1000)
    masked = spec_augment(
        log_mel, torch.full((64,), 1000), seeds=range(64), time_masks=1, mel_masks=0, time_seconds=0.5, time_share=1.0
    )
    widths = (masked != log_mel).any(dim=1).sum(dim=1)
    assert widths.max() <= 50
    assert widths.max() > 35
    short = spec_augment(log_mel, torch.full((64,), 100), seeds=range(64), time_masks=1, mel_masks=0, time_share=0.1)
    assert (short != log_mel).any(dim=1).sum(dim=1).max() <= 10


def test_fill_is_the_mean_or_silence():
    log_mel, num_frames = make_log_mel(rows=1), torch.tensor([200])
    kwargs = {"seeds": [3], "time_masks": 0, "mel_masks": 1, "mel_bins": 40}
    mean = spec_augment(log_mel, num_frames, **kwargs)
    hidden = mean != log_mel
    torch.testing.assert_close(mean[hidden].unique(), log_mel[..., :200].mean()[None])
    silence = spec_augment(log_mel, num_frames, **kwargs, fill="silence")
    assert (silence[hidden] == log_mel.min()).all()
