"""Accuracy, recall, F1 and calibration of posteriors. No figure needs the network."""

import datasets
import evaluate
import numpy as np

CALIBRATION_BINS = 15


class EmotionMetrics(evaluate.Metric):
    """Accuracy, mean recall, macro F1 and expected calibration error of (n, C) posteriors.

    Classes without any reference are left out of the means. The calibration error is that of Naeini et al. (2015)
    with 15 bins of equal width; `expected_if_calibrated` is the error that sampling alone gives a perfectly
    calibrated model with these confidences and as many samples.
    """

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self.__doc__, citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        probs, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        answers = probs.argmax(-1)
        recalls, f1s = [], []
        for label in np.unique(labels):
            hits = ((answers == label) & (labels == label)).sum()
            recalls.append(hits / (labels == label).sum())
            f1s.append(2 * hits / ((answers == label).sum() + (labels == label).sum()))
        confidence, correct = probs.max(-1), answers == labels
        draws = np.random.default_rng(0).random((100, len(labels))) < confidence
        return {
            "accuracy": float(correct.mean()),
            "mean_recall": float(np.mean(recalls)),
            "macro_f1": float(np.mean(f1s)),
            "calibration_error": calibration_error(confidence, correct),
            "expected_if_calibrated": float(np.mean([calibration_error(confidence, draw) for draw in draws])),
        }


def calibration_bins(confidence: np.ndarray) -> np.ndarray:
    """The index of each confidence's bin, (n,), of CALIBRATION_BINS bins of equal width; confidences (n,) in 0..1."""
    return np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean gap over the bins, weighted by their size, between confidence (n,) in 0..1 and accuracy (n,) bool."""
    gaps = np.bincount(calibration_bins(confidence), weights=confidence - correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def reliability(probs: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Size, mean confidence and accuracy of every bin that is not empty."""
    confidence, correct = probs.max(-1), probs.argmax(-1) == labels
    bins = calibration_bins(confidence)
    return [
        {"n": int(here.sum()), "confidence": float(confidence[here].mean()), "accuracy": float(correct[here].mean())}
        for here in (bins == i for i in range(CALIBRATION_BINS))
        if here.any()
    ]


def selective(probs: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float]:
    """What it means that answers (n, C) below a threshold are unsure: `coverage`, the share of the sure ones, `risk`,
    how many of these are wrong, and `rejected_risk`, how many of the unsure ones are; without the one that would be of
    no answers."""
    sure, wrong = probs.max(-1) >= threshold, probs.argmax(-1) != labels
    figures = {"n": len(labels), "coverage": float(sure.mean())}
    if sure.any():
        figures["risk"] = float(wrong[sure].mean())
    if not sure.all():
        figures["rejected_risk"] = float(wrong[~sure].mean())
    return figures


def confusion_matrix(probs: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """How often each label (row) got each answer (column), C x C."""
    classes = probs.shape[1]
    counts = np.bincount(labels * classes + probs.argmax(-1), minlength=classes**2)
    return counts.reshape(classes, classes).tolist()


def emotion_metrics(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """n and `EmotionMetrics` of (n, C) posteriors and (n,) labels."""
    return {"n": len(labels), **EmotionMetrics().compute(predictions=list(probs), references=list(labels))}
