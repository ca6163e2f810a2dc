"""WER and CER as a metric of the evaluate library."""

from typing import Any

from whisper_shard.score.alignment import ErrorCounts, count_errors


def load_error_rates() -> Any:
    """Return WER and CER of a corpus as a metric of the ``evaluate`` library, to be used where others are.

    ``evaluate.load("wer")`` fetches its code from the network; this one is here. ``compute(references=...,
    predictions=...)`` gives ``{"wer": ..., "cer": ...}`` of the texts as they are; `score_texts` gives the same
    numbers and all that stands behind them.
    """
    import datasets
    import evaluate

    class ErrorRates(evaluate.Metric):  # type: ignore[misc]
        """Errors over reference units, of the whole corpus."""

        def _info(self) -> Any:
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description="Word and character error rate of a corpus.",
                citation="",
                inputs_description="references and predictions: lists of texts",
                features=datasets.Features({"predictions": text, "references": text}),
            )

        def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
            words = sum(count_errors(references, predictions), ErrorCounts())
            chars = sum(count_errors(references, predictions, chars=True), ErrorCounts())
            return {"wer": words.rate, "cer": chars.rate}

    return ErrorRates(keep_in_memory=True)
