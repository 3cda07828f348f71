"""The generalised loss is that of scikit-learn's logistic regression on the extracted features."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.linear_model import LogisticRegression  # noqa: E402

from heredity.corpora.labelled import read_task  # noqa: E402
from heredity.errors import ConfigError, StoreError  # noqa: E402
from heredity.models.batches import EncodedTask, encode_task  # noqa: E402
from heredity.models.classifier import load_encoder  # noqa: E402
from heredity.models.load import tokenizer  # noqa: E402
from heredity.models.probe import Features, features, features_of_task, fit_head, probe  # noqa: E402
from tiny_models import write_bert, write_task  # noqa: E402


def blobs(rng: np.random.Generator, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    y = rng.integers(classes, size=n)
    centres = np.random.default_rng(7).normal(size=(classes, 12))
    return (5.0 + 0.3 * (centres[y] + 2.0 * rng.normal(size=(n, 12)))).astype(np.float32), y


def planted(classes: int = 3) -> tuple[Features, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    (a, ya), (b, yb), (c, yc) = (blobs(rng, n, classes) for n in (200, 80, 120))
    return Features(train=a, validation=b, test=c), (ya, yb, yc)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_equals_scikit_learn_on_the_features_as_they_are(classes: int) -> None:
    found, labels = planted(classes)
    made = fit_head(found, labels, classes=classes)
    shift = found.train.mean(axis=0, dtype=np.float64)  # taken up by the intercept: only faster
    oracle = LogisticRegression(C=made.strength, max_iter=50_000, tol=1e-7).fit(
        found.train - shift, labels[0]
    )
    chances = oracle.predict_proba(found.test - shift)
    loss = -np.log(chances[np.arange(120), labels[2]])
    assert made.converged
    assert made.loss == pytest.approx(loss.mean(), abs=1e-3)
    assert made.accuracy == pytest.approx((chances.argmax(1) == labels[2]).mean(), abs=0.01)
    np.testing.assert_allclose(made.losses, loss, atol=5e-3)


def test_the_strength_is_the_one_that_validation_likes_best() -> None:
    found, labels = planted()
    losses = {
        c: fit_head(found, labels, classes=3, strengths=[c]).validation_loss for c in (1e-4, 1e-2, 1e0, 1e2)
    }
    made = fit_head(found, labels, classes=3, strengths=list(losses))
    assert made.validation_loss == pytest.approx(min(losses.values()), abs=1e-4)


def test_a_class_that_was_never_trained_on_costs_much_and_one_class_is_refused() -> None:
    found, (a, b, c) = planted(3)
    made = fit_head(found, (np.where(a == 2, 0, a), b, c), classes=4)
    assert made.losses[c == 2].min() > 100
    assert not made.correct[c == 2].any()
    with pytest.raises(ConfigError, match="one class"):
        fit_head(found, (np.zeros_like(a), b, c), classes=3)


def encoded(folder: Path) -> tuple[torch.nn.Module, EncodedTask]:
    bert = write_bert(folder / "bert")
    task = read_task(write_task(folder, classes=3))
    return load_encoder(bert), encode_task(task, tokenizer(bert), max_tokens=16)


def test_features_do_not_depend_on_the_batch_or_on_padding(tmp_path: Path) -> None:
    encoder, data = encoded(tmp_path)
    one = features(encoder, data.test, pooling="mean", batch=1)
    many = features(encoder, data.test, pooling="mean", batch=64)
    np.testing.assert_allclose(one, many, atol=1e-5)
    parts = features_of_task(encoder, data, pooling="mean")
    assert parts.train.shape == (len(data.train), 16)
    made = probe(encoder, data, pooling="mean")
    assert made.accuracy > 0.9  # the word is in the mean


def test_a_feature_that_is_not_finite_is_named(tmp_path: Path) -> None:
    encoder, data = encoded(tmp_path)
    with torch.no_grad():
        encoder.encoder.layer[0].output.dense.weight[0, 0] = float("inf")
    with pytest.raises(StoreError, match="not finite"):
        features(encoder, data.test, pooling="mean")
