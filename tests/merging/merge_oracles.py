"""Every method in fp64 NumPy, written from the formulas and not from the library: the truth of the tests."""

from collections.abc import Callable

import numpy as np
from numpy import (
    abs,
    arccos,
    argsort,
    array,
    clip,
    cos,
    exp,
    eye,
    linalg,
    log,
    mean,
    ndarray,
    sign,
    sin,
    where,
    zeros,
)

Oracle = Callable[..., ndarray]
norm = linalg.norm


def linear(models: list[ndarray], weight: list[float], normalize: bool = True) -> ndarray:
    total = sum(w * m for w, m in zip(weight, models, strict=True))
    return total / sum(weight) if normalize else total


def slerp(base: ndarray, models: list[ndarray], t: float) -> ndarray:
    a, b = base, models[0]
    d = clip((a * b).sum() / ((norm(a) or 1) * (norm(b) or 1)), -1, 1)
    if abs(d) > 0.9995:
        return (1 - t) * a + t * b
    angle = arccos(d)
    return (sin((1 - t) * angle) * a + sin(t * angle) * b) / sin(angle)


def nuslerp(base: ndarray, models: list[ndarray], weight: list[float], axis: int | None = None) -> ndarray:
    t = 0.5 if abs(sum(weight)) < 1e-6 else weight[1] / sum(weight)
    a, b = models[0] - base, models[1] - base

    def lengths(x: ndarray) -> ndarray:
        return np.sqrt((x * x).sum(axis, keepdims=True))

    d = clip((a * b).sum(axis, keepdims=True) / (lengths(a) * lengths(b)), -1, 1)
    angle = arccos(d)
    return base + (sin((1 - t) * angle) * a + sin(t * angle) * b) / sin(angle)


def multislerp(base: ndarray, models: list[ndarray], weight: list[float], eps: float = 1e-8) -> ndarray:
    v = array([m - base for m in models]).reshape(len(models), -1)
    w = array(weight) / sum(weight)
    lengths = norm(v, axis=1)
    u = v / (lengths + eps)[:, None]
    m = w @ u / norm(w @ u)
    tangent = w @ (u - (u @ m)[:, None] * m)
    k = norm(tangent) + eps
    return base + ((m * cos(k) + tangent * sin(k) / k) * (w @ lengths)).reshape(base.shape)


def karcher(models: list[ndarray], max_iter: int = 10, tol: float = 1e-5) -> ndarray:
    v = array(models).reshape(len(models), -1)
    lengths = norm(v, axis=1)
    u = v / lengths[:, None]
    m = u.mean(0) / norm(u.mean(0))
    for _ in range(max_iter):
        angles = arccos(clip(u @ m, -1, 1))
        pulls = [a / sin(a) * (x - x @ m * m) if a >= tol else 0 * x for a, x in zip(angles, u, strict=True)]
        tangent = mean(pulls, 0)
        k = norm(tangent)
        if k < tol:
            break
        m = cos(k) * m + sin(k) * tangent / k
        m /= norm(m)
    return (lengths.mean() * m).reshape(models[0].shape)


def model_stock(base: ndarray, models: list[ndarray]) -> ndarray:
    d = [(m - base).ravel() for m in models]
    n = len(d)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    c = mean([clip(d[i] @ d[j] / max(norm(d[i]) * norm(d[j]), 1e-6), -1, 1) for i, j in pairs])
    t = n * c / (1 + (n - 1) * c)
    return t * mean(models, 0) + (1 - t) * base


def task_arithmetic(
    base: ndarray, models: list[ndarray], weight: list[float], lambda_: float = 1.0
) -> ndarray:
    return base + lambda_ * sum(w * (m - base) for w, m in zip(weight, models, strict=True))


def top(delta: ndarray, density: float) -> ndarray:
    """Keep the largest, ties by lowest index."""
    flat = delta.ravel()
    order = argsort(-abs(flat), kind="stable")[: max(1, int(density * flat.size))]
    kept = zeros(flat.size)
    kept[order] = flat[order]
    return kept.reshape(delta.shape)


def band(delta: ndarray, density: float, gamma: float) -> ndarray:
    flat = delta.ravel()
    kept = int(density * flat.size)
    smallest = max(0, flat.size - kept - int(gamma * flat.size))
    order = argsort(-abs(flat), kind="stable")[flat.size - smallest - kept : flat.size - smallest]
    result = zeros(flat.size)
    result[order] = flat[order]
    return result.reshape(delta.shape)


def elect(base: ndarray, deltas: list[ndarray], weight: list[float], normalize: bool) -> ndarray:
    weighted = array([w * d for w, d in zip(weight, deltas, strict=True)])
    elected = where(weighted.sum(0) >= 0, 1, -1)
    agree = sign(weighted) == elected
    divisor = sum(w * a for w, a in zip(weight, agree, strict=True))
    total = (weighted * agree).sum(0)
    return base + (total / where(divisor == 0, 1, divisor) if normalize else total)


def ties(base: ndarray, models: list[ndarray], weight: list[float], density: float) -> ndarray:
    return elect(base, [top(m - base, density) for m in models], weight, True)


def breadcrumbs(
    base: ndarray, models: list[ndarray], weight: list[float], density: float, gamma: float
) -> ndarray:
    return base + sum(w * band(m - base, density, gamma) for w, m in zip(weight, models, strict=True))


def breadcrumbs_ties(
    base: ndarray, models: list[ndarray], weight: list[float], density: float, gamma: float
) -> ndarray:
    return elect(base, [band(m - base, density, gamma) for m in models], weight, False)


def sce(base: ndarray, models: list[ndarray], select_topk: float) -> ndarray:
    d = array([m - base for m in models])
    variance = d.var(0).astype(np.float32).ravel()
    order = argsort(-variance, kind="stable")[: int((variance > 0).sum() * select_topk)]
    mask = zeros(variance.size)
    mask[order] = 1
    d = d * mask.reshape(base.shape)
    square = (d**2).reshape(len(d), -1).mean(1)
    w = square / square.sum() if square.sum() >= 1e-6 else array([1 / len(d)] * len(d))
    agree = sign(d) == where(d.sum(0) >= 0, 1, -1)
    w = w.reshape(-1, *[1] * base.ndim) * agree
    return base + (d * w).sum(0) / np.maximum(w.sum(0), 1e-6)


def nearswap(base: ndarray, models: list[ndarray], t: float) -> ndarray:
    w = clip(t / np.maximum(abs(base - models[0]), 1e-6), 0, 1)
    return w * models[0] + (1 - w) * base


def arcee_fusion(base: ndarray, models: list[ndarray]) -> ndarray:
    def softmax(x: ndarray) -> ndarray:
        e = exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) + 1e-8

    p, q = softmax(models[0]), softmax(base)
    score = abs(models[0].astype(np.float32) - base.astype(np.float32)) * (p * log(p / q)).sum(
        -1, keepdims=True
    )
    ranked = np.sort(score.ravel())
    low, middle, high = (ranked[int(f * (score.size - 1))] for f in (0.25, 0.5, 0.75))
    return where(score >= middle + 1.5 * (high - low), models[0], base)


def ram(
    base: ndarray, models: list[ndarray], epsilon: float = 1e-5, scale: list[float] | None = None
) -> ndarray:
    d = array([m - base for m in models])
    moved = abs(d) > epsilon
    count = moved.sum(0)
    factors = array(scale or [1] * len(models)).reshape(-1, *[1] * base.ndim)
    return base + (d * moved * where(count == 1, factors, 1 / np.maximum(count, 1))).sum(0)


def ramplus_tl(
    base: ndarray, models: list[ndarray], r: float, alpha: float, epsilon: float = 1e-5
) -> ndarray:
    moved = abs(array([m - base for m in models])) > epsilon
    alone = moved.sum(0) == 1
    ratio = [(m & ~alone).sum() / max((m & alone).sum(), epsilon) for m in moved]
    return ram(base, models, epsilon, [float(1 + r * clip(x, 0, alpha)) for x in ratio])


def regmean(models: list[ndarray], grams: list[ndarray], alpha: float) -> ndarray:
    shrunk = [alpha * g + (1 - alpha) * g * eye(len(g)) for g in grams]
    return sum(m @ g for m, g in zip(models, shrunk, strict=True)) @ linalg.inv(sum(shrunk))


def fisher(models: list[ndarray], information: list[ndarray]) -> ndarray:
    return sum(m * f for m, f in zip(models, information, strict=True)) / sum(information)
