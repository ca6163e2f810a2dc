"""How long the rest of a run takes."""

import pytest

from whisper_shard.train.pace import Pace, count_evaluations


@pytest.mark.parametrize(
    ("step", "total", "every", "expected"),
    [(0, 10, 5, 4), (4, 10, 5, 4), (5, 10, 5, 3), (0, 11, 5, 5), (10, 11, 5, 3), (11, 11, 5, 2), (0, 3, 5, 3)],
)
def test_evaluations_to_come(step, total, every, expected):
    later = [number for number in range(step + 1, total + 1) if number % every == 0 or number == total]
    assert count_evaluations(step, total_steps=total, eval_every=every) == len(later) + 2 == expected


def test_the_first_step_does_not_count_once_there_is_another():
    pace = Pace(total_steps=10, eval_every=5)
    assert pace.remaining_seconds(0) is None
    pace.add_step(60.0)
    assert pace.remaining_seconds(1) == pytest.approx(9 * 60.0)
    pace.add_step(2.0)
    pace.add_step(4.0)
    assert (pace.step_seconds, pace.num_steps) == (3.0, 3)
    pace.add_evaluation(7.0)
    assert pace.remaining_seconds(3) == pytest.approx(7 * 3.0 + 4 * 7.0)
