"""The definitions in float64 NumPy, term by term: what the library's streamed float32 is held against."""

import numpy as np


def radius(z, labels, num_classes, *, unbiased=False):
    """R_c² of every class, ``(K,)``; NaN for a class of 0 or 1 images."""
    z = np.asarray(z, np.float64).reshape(len(z), -1)
    found = np.full(num_classes, np.nan)
    for c in range(num_classes):
        members = z[np.asarray(labels) == c]
        if len(members) > 1:
            squares = np.sum((members - members.mean(axis=0)) ** 2)
            found[c] = squares / (len(members) - 1 if unbiased else len(members))
    return found


def scatter(z, labels):
    """W, B and ρ = W / (W + B)."""
    z = np.asarray(z, np.float64).reshape(len(z), -1)
    labels, grand = np.asarray(labels), z.mean(axis=0)
    within = between = 0.0
    for c in np.unique(labels):
        members = z[labels == c]
        mean = members.mean(axis=0)
        within += np.sum((members - mean) ** 2) / len(z)
        between += len(members) / len(z) * np.sum((mean - grand) ** 2)
    return within, between, within / (within + between)


def soft_targets(labels, num_classes, alpha):
    """1 - α for the true class, α/(K - 1) for each other."""
    return np.array([[1 - alpha if k == c else alpha / (num_classes - 1) for k in range(num_classes)] for c in labels])


def softmax(logits):
    """p, ``(N, K)``."""
    powers = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cross_entropy(logits, targets):
    """-Σ_k q_k ln p_k of every row, nats."""
    return -np.sum(targets * np.log(softmax(logits)), axis=1)


def entropy(logits):
    """-Σ_k p_k ln p_k of every row, nats."""
    p = softmax(logits)
    return -np.sum(p * np.log(p), axis=1)
