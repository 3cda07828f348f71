"""Kernels of single methods: NearSwap, RAM, SCE's variance, Fusion's divergence of rows."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def near_swap(base, model, t, out):  # type: ignore[no-untyped-def]
    """Fill out float32[n]: the closer the two, the more of the model; up to a distance t all of it."""
    for i in range(out.size):
        distance = max(abs(base[i] - model[i]), np.float32(1e-6))
        weight = min(max(t / distance, np.float32(0)), np.float32(1))
        out[i] = weight * model[i] + (np.float32(1) - weight) * base[i]


@njit(cache=True, nogil=True, error_model="numpy")
def average_touching(base, deltas, epsilon, unique_scale, out):  # type: ignore[no-untyped-def]
    """Fill out float32[n]: where one model moved, its delta times its scale; where several did, their mean.

    Args:
        base: float32[n].
        deltas: float32[K, n].
        epsilon: float32; a model moved an element where |delta| > epsilon.
        unique_scale: float32[K], of each model's unique deltas.
    """
    for i in range(out.size):
        count, total, alone = 0, np.float32(0), np.float32(1)
        for k in range(deltas.shape[0]):
            if abs(deltas[k, i]) > epsilon:
                count += 1
                total += deltas[k, i]
                alone = unique_scale[k]
        out[i] = base[i] + (total * alone if count == 1 else total / np.float32(max(count, 1)))


@njit(cache=True, nogil=True, error_model="numpy")
def count_touching(deltas, epsilon, unique, shared):  # type: ignore[no-untyped-def]
    """Add to int64[K] how many elements each model moved alone, and together with others."""
    for i in range(deltas.shape[1]):
        count, last = 0, 0
        for k in range(deltas.shape[0]):
            if abs(deltas[k, i]) > epsilon:
                count += 1
                last = k
        if count == 1:
            unique[last] += 1
        elif count > 1:
            for k in range(deltas.shape[0]):
                shared[k] += abs(deltas[k, i]) > epsilon


@njit(cache=True, nogil=True, error_model="numpy")
def variance(deltas, out):  # type: ignore[no-untyped-def]
    """Fill out float32[n] with the population variance over the models of deltas float32[K, n]."""
    count = deltas.shape[0]
    for i in range(out.size):
        mean = np.float64(0)
        for k in range(count):
            mean += deltas[k, i]
        mean /= count
        total = np.float64(0)
        for k in range(count):
            total += (deltas[k, i] - mean) ** 2
        out[i] = np.float32(total / count)


@njit(cache=True, nogil=True, error_model="numpy")
def row_divergence(base, model, width, out):  # type: ignore[no-untyped-def]
    """Fill out float64[rows] with KL(softmax of the model's row ‖ softmax of the base's), each plus 1e-8.

    Args:
        base: float32[rows · width].
        model: float32[rows · width].
        width: elements of a row.
    """
    for row in range(out.size):
        b = base[row * width : (row + 1) * width]
        m = model[row * width : (row + 1) * width]
        top_b, top_m = np.float64(b.max()), np.float64(m.max())
        sum_b, sum_m = 0.0, 0.0
        for i in range(width):
            sum_b += np.exp(b[i] - top_b)
            sum_m += np.exp(m[i] - top_m)
        total = 0.0
        for i in range(width):
            p = np.exp(m[i] - top_m) / sum_m + 1e-8
            q = np.exp(b[i] - top_b) / sum_b + 1e-8
            total += p * np.log(p / q)
        out[row] = max(total, 0.0)  # rounding may go below: keys must order as bits


@njit(cache=True, nogil=True, error_model="numpy")
def importance(base, model, divergence, width, out):  # type: ignore[no-untyped-def]
    """Fill out float64[n] with |model − base| (rounded to float32) times the divergence of its row."""
    for i in range(out.size):
        out[i] = np.float64(abs(np.float32(model[i] - base[i]))) * divergence[i // width]


@njit(cache=True, nogil=True, error_model="numpy")
def swap_important(base, model, scores, threshold, out):  # type: ignore[no-untyped-def]
    """Fill out float32[n]: the model's change where its score reaches the threshold; return how many."""
    count = 0
    for i in range(out.size):
        if scores[i] >= threshold:
            out[i] = base[i] + (model[i] - base[i])
            count += 1
        else:
            out[i] = base[i]
    return count
