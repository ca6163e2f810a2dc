"""The rules for times are those of transformers, token by token and window by window."""

from types import SimpleNamespace

import pytest
import torch
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from whisper_shard.inference.timestamps import History, TimestampRules, split_segments

END, FIRST, VOCABULARY = 20, 30, 90
RULES = TimestampRules(first_time=FIRST, end_id=END, latest_start=10)
THEIRS = WhisperTimeStampLogitsProcessor(
    SimpleNamespace(
        no_timestamps_token_id=FIRST - 1, eos_token_id=END, bos_token_id=END, max_initial_timestamp_index=10
    ),
    begin_index=2,
)


def choose(generator, tokens):
    """Return the logits after ``tokens`` as we leave them and as transformers does."""
    logits = torch.randn(len(tokens[0]) and len(tokens), VOCABULARY, generator=generator) * 3
    logits[:, FIRST - 1] = -torch.inf
    history = History.empty(len(tokens), logits.device)
    for column in torch.tensor(tokens).T[2:]:
        history = history.append(column, FIRST)
    theirs = THEIRS(torch.tensor(tokens), logits)
    RULES.apply(logits, history)
    return logits, theirs


@pytest.mark.parametrize("seed", range(5))
def test_the_same_tokens_are_forbidden_as_by_transformers(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = [[1, 2] for _ in range(16)]
    for _ in range(12):
        ours, theirs = choose(generator, tokens)
        assert torch.equal(ours, theirs)
        drawn = ours.softmax(dim=1).multinomial(1, generator=generator)[:, 0].tolist()
        tokens = [[*row, token] for row, token in zip(tokens, drawn, strict=True)]


def draw_window(generator):
    tokens = [[1, 2]]
    for _ in range(int(torch.randint(1, 14, (1,), generator=generator))):
        ours, _ = choose(generator, tokens)
        ours[:, END : FIRST - 1] = -torch.inf
        tokens = [[*tokens[0], int(ours.softmax(dim=1).multinomial(1, generator=generator))]]
    return tokens[0][2:]


@pytest.mark.parametrize("seed", range(200))
def test_a_window_is_cut_into_the_segments_of_transformers(seed):
    tokens = draw_window(torch.Generator().manual_seed(seed))
    segments, advance = split_segments(tokens, first_time=FIRST, num_frames=1500)
    theirs, their_advance = WhisperGenerationMixin._retrieve_segment(
        seek_sequence=torch.tensor(tokens), seek_outputs=[None], time_offset=torch.zeros(1, dtype=torch.float64),
        timestamp_begin=FIRST, seek_num_frames=torch.tensor([1500]), time_precision=0.02, time_precision_features=0.01,
        input_stride=2, prev_idx=0, idx=0, return_token_timestamps=False, decoder_input_ids=torch.zeros(1, 2),
    )  # fmt: skip
    assert advance == int(their_advance)
    assert [(segment.start, segment.end) for segment in segments] == [
        (round(100 * float(each["start"])), round(100 * float(each["end"]))) for each in theirs
    ]
    # transformers keeps the beginning of the next segment, where it is the last token, with the last one.
    kept = [each["tokens"].tolist() for each in theirs]
    assert [list(segment.token_ids) for segment in segments] == [
        ids[:-1] if ids[-2:-1] and ids[-2] >= FIRST and len(ids) > 2 else ids for ids in kept
    ]


def test_the_rest_of_a_window_that_is_not_heard_again_is_a_segment():
    tokens = [FIRST, 5, FIRST + 4, FIRST + 4, 6, 7]
    segments, advance = split_segments(tokens, first_time=FIRST, num_frames=1000)
    assert [segment.end for segment in segments] == [8]
    assert advance == 8
    segments, advance = split_segments(tokens, first_time=FIRST, num_frames=1000, keep_rest=True)
    assert [(segment.start, segment.end) for segment in segments] == [(0, 8), (8, 1000)]
    assert segments[1].token_ids == (FIRST + 4, 6, 7)
    assert advance == 1000
