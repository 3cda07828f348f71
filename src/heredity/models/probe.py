"""Generalised loss: a frozen encoder, a new linear head fitted to convergence on it, its loss on held-out text.

    l_g(ω) = loss on the test rows of the head that minimises ½‖W‖² + C·Σ loss over the training rows,
             with C chosen by the loss on the validation rows

The features (one vector for each text) are extracted once. They are centred and divided by one number, which
changes nothing but the speed: the head equals `sklearn.linear_model.LogisticRegression(C=strength)` on them.

Source: Gueta et al. 2023, arXiv 2302.04863, section 2; the choice of C is ours, the paper does not say.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from numpy import ndarray

from heredity.blas import one_blas_thread
from heredity.errors import ConfigError, StoreError
from heredity.models.batches import Encoded, EncodedTask, in_order
from heredity.models.classifier import Pooling, pooled
from heredity.models.load import dtype_of, torch

STRENGTHS = tuple(10.0**n for n in range(-5, 3))
"""C of features of unit root mean square, strongest regularisation first."""
_TOLERANCE, _ITERATIONS = 1e-5, 2000


class Probed(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What a frozen encoder is worth on a task.

    Attributes:
        loss: mean negative log-likelihood of the test rows, nats.
        accuracy: share of test rows whose likeliest class is right.
        losses: of each test row.
        correct: of each test row.
        strength: C that the validation rows chose, for the features as they are.
        validation_loss: at that C.
        converged: whether every head was fitted to convergence.
    """

    loss: float
    accuracy: float
    losses: Float64[ndarray, " test"]
    correct: ndarray
    strength: float
    validation_loss: float
    converged: bool


class Features(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One vector for each text of a task's three parts."""

    train: Float32[ndarray, "train width"]
    validation: Float32[ndarray, "validation width"]
    test: Float32[ndarray, "test width"]


def probe(encoder: Any, data: EncodedTask, *, pooling: Pooling, dtype: str = "float32") -> Probed:
    """Measure the generalised loss of a live encoder on a task.

    Raises:
        StoreError: a feature is not finite.
        ConfigError: the training rows have one class.
    """
    found = features_of_task(encoder, data, pooling=pooling, dtype=dtype)
    labels = (data.train.labels, data.validation.labels, data.test.labels)
    return fit_head(found, labels, classes=len(data.task.labels))


def features_of_task(
    encoder: Any, data: EncodedTask, *, pooling: Pooling, dtype: str = "float32"
) -> Features:
    """Extract the features of all three parts.

    Raises:
        StoreError: one is not finite.
    """
    parts = {
        part: features(encoder, getattr(data, part), pooling=pooling, dtype=dtype)
        for part in ("train", "validation", "test")
    }
    return Features(**parts)


@torch.no_grad()
def features(
    encoder: Any, data: Encoded, *, pooling: Pooling, batch: int = 64, dtype: str = "float32"
) -> Float32[ndarray, "rows width"]:
    """Extract one vector for each text; texts of like length share a batch.

    Raises:
        StoreError: one is not finite.
    """
    encoder.eval()
    device = next(encoder.parameters()).device
    found = np.empty((len(data), int(encoder.config.hidden_size)), np.float32)
    with torch.autocast(device.type, dtype=dtype_of(dtype), enabled=dtype != "float32"):
        for rows in in_order(data.lengths, batch):
            found[rows] = pooled(encoder, data.batch(rows, device), pooling).cpu().numpy()
    if not np.isfinite(found).all():
        raise StoreError("a feature is not finite", "a weight or an activation is NaN or infinite")
    return found


def fit_head(
    features: Features,
    labels: tuple[Int64[ndarray, " train"], Int64[ndarray, " validation"], Int64[ndarray, " test"]],
    *,
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> Probed:
    """Fit heads from the strongest regularisation on, until the validation loss rises; score the best.

    Args:
        features: of the three parts.
        labels: of the three parts.
        classes: number of classes; one that no training row has gets the smallest probability.
        strengths: C to try, ascending, in units of unit root mean square.

    Raises:
        ConfigError: the training rows have one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    y_train, y_validation, y_test = labels
    if len(np.unique(y_train)) < 2:
        raise ConfigError("the training rows have one class", "a head needs two classes or more")
    x_train = features.train.astype(np.float64)
    centre = x_train.mean(axis=0)
    scale = float(np.sqrt(np.mean((x_train - centre) ** 2))) or 1.0
    x_train = (x_train - centre) / scale
    x_validation, x_test = ((part - centre) / scale for part in (features.validation, features.test))
    best: tuple[float, float, Float[ndarray, "test classes"]] | None = None
    model: Any = LogisticRegression(solver="lbfgs", tol=_TOLERANCE, max_iter=_ITERATIONS, warm_start=True)
    with one_blas_thread(), warnings.catch_warnings(record=True) as said:
        # one thread: small products, and bits that do not depend on the number of threads
        warnings.simplefilter("always")
        for strength in strengths:
            model.C = strength
            model.fit(x_train, y_train)
            loss = float(_losses(_log_chances(model, x_validation, classes), y_validation).mean())
            if best is not None and loss >= best[0]:
                break
            best = loss, strength, _log_chances(model, x_test, classes)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in said)
    if best is None:
        raise ConfigError("no strength to try", "give at least one")
    losses = _losses(best[2], y_test)
    correct = best[2].argmax(axis=1) == y_test
    return Probed(
        loss=float(losses.mean()), accuracy=float(correct.mean()), losses=losses, correct=correct,
        strength=best[1] / scale**2, validation_loss=best[0], converged=converged,
    )  # fmt: skip


def _log_chances(
    model: Any, x: Float64[ndarray, "rows width"], classes: int
) -> Float64[ndarray, "rows classes"]:
    """Return log-probabilities of all classes; of those that the head has not seen, the smallest float's."""
    found = np.full((len(x), classes), np.log(np.finfo(np.float64).tiny))
    found[:, model.classes_] = np.maximum(model.predict_log_proba(x), found[0, 0])
    return found


def _losses(
    log_chances: Float64[ndarray, "rows classes"], y: Int64[ndarray, " rows"]
) -> Float64[ndarray, " rows"]:
    return -log_chances[np.arange(len(y)), y]
