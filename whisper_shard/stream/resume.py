"""The state of the stream: which step comes next, and the fingerprints of everything its order depends on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from whisper_shard.errors import StateError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanState:
    """A place in the stream. Ranks and workers are not part of it: they may change at any step."""

    plan_version: int
    """Version of the algorithm that orders utterances."""
    index_sha256: str
    """Fingerprints of the datasets' indexes, joined by ``+``."""
    seed: int
    """Seed of order and augmentation."""
    batch_size: int
    """Utterances a step over all ranks."""
    batch_seconds: float
    """Budget of a step in padded seconds, 0 if batch_size rules."""
    length_buckets: int
    """Kinds of length."""
    weights: tuple[float, ...]
    """Passes an epoch over each dataset; empty: one each."""
    pack_by: str
    """What packed utterances have in common; empty: no packing."""
    pack_gap_seconds: tuple[float, float]
    """Range of the pauses between packed utterances."""
    steps_per_epoch: int
    """Steps in every epoch."""
    pack_share: float = 1.0
    """Share of the utterances that is packed; states from before there was a choice do not say it."""
    epoch: int = 0
    """Epoch of the next step, from 0."""
    step: int = 0
    """The next step within the epoch, from 0 to steps_per_epoch - 1."""

    def at(self, epoch: int, step: int) -> "PlanState":
        """Return the state whose next step is ``step``; past the last one it is the first of the next epoch."""
        if step >= self.steps_per_epoch:
            epoch, step = epoch + 1, 0
        return replace(self, epoch=epoch, step=step)

    def check(self, other: "PlanState") -> None:
        """Check that a saved state belongs to this stream, so that every step holds the same utterances.

        Raises:
            StateError: A fingerprint differs; both values are named.
        """
        for field in fields(self):
            if field.name in ("epoch", "step"):
                continue
            here, there = getattr(self, field.name), getattr(other, field.name)
            if here != there:
                raise StateError(
                    f"saved state of the stream: {field.name} was {there!r}, now it is {here!r}; resume with the same "
                    "data and settings, or start a new run"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain JSON values."""
        return asdict(self)


def plan_state_from_json(value: Mapping[str, Any]) -> PlanState:
    """Return a saved state.

    Raises:
        StateError: The value is not the state of a stream.
    """
    try:
        tuples = {name: tuple(value[name]) for name in ("weights", "pack_gap_seconds")}
        state = PlanState(**{**value, **tuples})
    except (KeyError, TypeError) as error:
        raise StateError(f"saved state of the stream: cannot be parsed ({error!r}); start a new run") from error
    if not (isinstance(state.epoch, int) and isinstance(state.step, int) and state.epoch >= 0 <= state.step):
        raise StateError(f"saved state of the stream: no such place: epoch {state.epoch!r}, step {state.step!r}")
    return state.at(state.epoch, state.step)
