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


def feature_terms(z, jacobians, logits, targets, labels, step_size):
    """What the head of ``analysis/vortex.py`` writes down, one image and one logit at a time, from J_i in full.

    Returns ``(correct, wrong, second)``, ``(K,)`` each, and M ``(K, K)``: what logit k does to class c to first order.
    """
    z, r, labels = np.asarray(z, np.float64).reshape(len(z), -1), softmax(logits) - targets, np.asarray(labels)
    n, num_classes = r.shape
    jacobians = np.asarray(jacobians, np.float64).reshape(n, num_classes, -1)
    matrix, second = np.full((num_classes, num_classes), np.nan), np.full(num_classes, np.nan)
    for c in range(num_classes):
        members = [i for i in range(n) if labels[i] == c]
        if len(members) < 2:
            continue
        mean, factor = sum(z[i] for i in members) / len(members), step_size / len(members)
        for k in range(num_classes):
            matrix[c, k] = -2 * factor * sum(r[i, k] * np.dot(z[i] - mean, jacobians[i, k]) for i in members)
        g = [sum(r[i, k] * jacobians[i, k] for k in range(num_classes)) for i in members]
        second[c] = step_size * factor * sum(np.sum((g_i - sum(g) / len(g)) ** 2) for g_i in g)
    correct = np.diag(matrix)
    wrong = np.array([sum(matrix[c, k] for k in range(num_classes) if k != c) for c in range(num_classes)])
    return correct, wrong, second, matrix


def first_order(z, moves, labels, num_classes):
    """(2/N_c) Σ (z_i - μ_c)·dz_i of every class: what moves dz do to R_c² to first order."""
    z, moves = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (z, moves))
    found = np.full(num_classes, np.nan)
    for c in range(num_classes):
        members = np.asarray(labels) == c
        if members.sum() > 1:
            d = z[members] - z[members].mean(axis=0)
            found[c] = 2 * np.sum(d * moves[members]) / members.sum()
    return found


def linear_gaussian(a, covariance, variance):
    """Of Z' = A X + N(0, s² I), X ~ N(0, Σ): 1/dFIL, I(X; Z'), h(X | Z') in nats, and the least mean squared error."""
    size = a.shape[1]
    floor = size * variance / np.trace(a.T @ a)
    information = np.linalg.slogdet(np.eye(len(a)) + a @ covariance @ a.T / variance)[1] / 2
    entropy = (np.linalg.slogdet(covariance)[1] + size * np.log(2 * np.pi * np.e)) / 2
    least = np.trace(np.linalg.inv(np.linalg.inv(covariance) + a.T @ a / variance)) / size
    return floor, information, entropy - information, least


def mixture_information(rng, shares, means, covariances, variance, draws):
    """I(Z; Z') of a Gaussian mixture Z under noise, by Monte Carlo, and its standard error: h(Z') - h(noise)."""
    size = means.shape[1]
    which = rng.choice(len(shares), draws, p=shares)
    blurred = covariances + variance * np.eye(size)
    factors = np.linalg.cholesky(blurred)
    z = means[which] + np.einsum("nij,nj->ni", factors[which], rng.normal(size=(draws, size)))
    logs = []
    for share, mean, covariance in zip(shares, means, blurred, strict=True):
        d = z - mean
        squares = np.sum(d * np.linalg.solve(covariance, d.T).T, axis=1)
        logs.append(np.log(share) - (squares + np.linalg.slogdet(covariance)[1] + size * np.log(2 * np.pi)) / 2)
    logs = np.logaddexp.reduce(logs, axis=0)
    noise = size / 2 * np.log(2 * np.pi * np.e * variance)
    return -logs.mean() - noise, logs.std() / np.sqrt(draws)
