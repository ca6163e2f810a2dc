"""How long steps and evaluations take, and so how long the rest of the run will."""

from collections import deque

_REMEMBERED = 100  # steps whose mean time is that of the steps to come
FINAL_EVALUATIONS = 2
"""Of the weights that the run ends with: in 30 s windows and in short ones."""


class Pace:
    """Counts the time of steps and evaluations of this process.

    Args:
        total_steps: Steps of the whole run.
        eval_every: Steps from one evaluation to the next.
    """

    def __init__(self, *, total_steps: int, eval_every: int) -> None:
        self._total_steps = total_steps
        self._eval_every = eval_every
        self._steps = deque[float](maxlen=_REMEMBERED)
        self._num_steps = 0
        self._evaluations: dict[str, float] = {}

    def add_step(self, seconds: float) -> None:
        """Count a step."""
        if self._num_steps == 1:
            self._steps.clear()  # the first step allocates, compiles and finds what fits into a pass
        self._steps.append(seconds)
        self._num_steps += 1

    def add_evaluation(self, seconds: float, dataset: str = "") -> None:
        """Count an evaluation in 30 s windows of a dataset, which takes the place of the one before it."""
        self._evaluations[dataset] = seconds

    @property
    def evaluation_seconds(self) -> float:
        """Time of the last evaluation in 30 s windows, of all datasets; 0: there was none yet."""
        return sum(self._evaluations.values())

    @property
    def num_steps(self) -> int:
        """Steps counted so far."""
        return self._num_steps

    @property
    def step_seconds(self) -> float:
        """Mean time of the last steps, without the very first."""
        return sum(self._steps) / max(1, len(self._steps))

    def evaluations_after(self, step: int) -> int:
        """Return how many evaluations come after this step, the two at the end included."""
        return count_evaluations(step, total_steps=self._total_steps, eval_every=self._eval_every)

    def remaining_seconds(self, step: int) -> float | None:
        """Return the time from this step to the end, if the run does not stop early; None: no step was made yet."""
        if not self._num_steps:
            return None
        steps = max(0, self._total_steps - step) * self.step_seconds
        return steps + self.evaluations_after(step) * self.evaluation_seconds


def count_evaluations(step: int, *, total_steps: int, eval_every: int) -> int:
    """Return how many evaluations come after a step: every so many steps, at the last, and two of the final weights."""
    regular = total_steps // eval_every - step // eval_every
    is_extra = total_steps % eval_every != 0 and step < total_steps
    return regular + is_extra + FINAL_EVALUATIONS
