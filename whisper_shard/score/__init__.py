"""Score a model on a dataset: hypotheses, error rates, confidence intervals, report."""
