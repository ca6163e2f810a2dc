"""WER and CER as a metric of the `evaluate` library, for training and evaluation code of others."""

from typing import Any


def load_error_rates() -> Any:
    """Return WER and CER of a corpus as an ``evaluate.Metric``.

    ``compute(references=..., predictions=...)`` returns ``{"wer": ..., "cer": ...}`` of the texts as they are, the
    rates of `score_texts` in form ``raw``. ``evaluate.load("wer")`` would fetch its code from the network.
    """
    import datasets
    import evaluate
    import jiwer

    class ErrorRates(evaluate.Metric):  # type: ignore[misc]
        """Errors over reference units of the whole corpus, by jiwer."""

        def _info(self) -> Any:
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description="Word and character error rate of a corpus.",
                citation="",
                inputs_description="references and predictions: lists of texts",
                features=datasets.Features({"predictions": text, "references": text}),
            )

        def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
            return {
                "wer": float(jiwer.wer(references, predictions)),
                "cer": float(jiwer.cer(references, predictions)),
            }

    return ErrorRates(keep_in_memory=True)
