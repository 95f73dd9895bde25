"""Evaluation: predictions in, `Scores` out, by a named protocol and beside null baselines."""

from rrg.evaluate.evaluation import evaluate
from rrg.evaluate.predictions import Exemplar, Prediction, read_predictions
from rrg.evaluate.scores import Scores

__all__ = ["Exemplar", "Prediction", "Scores", "evaluate", "read_predictions"]
