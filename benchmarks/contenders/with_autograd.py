"""HIPS autograd: NumPy code, differentiated. It has no Adam by the step; this is the formula."""

import autograd.numpy as anp
import numpy as np
from autograd import value_and_grad
from autograd.misc import flatten
from autograd.tracer import getval

from ..workloads import HESSIAN, Workload, data, initial
from . import Step


def dense(params, stats, x):
    *hidden, last = zip(params[::2], params[1::2], strict=True)
    for weight, bias in hidden:
        x = anp.maximum(anp.dot(x, weight.T) + bias, 0)
    return anp.dot(x, last[0].T) + last[1]


def residual(params, stats, x):
    for i, (mean, var) in enumerate(stats):
        weight, bias, gamma, beta = params[4 * i : 4 * i + 4]
        a = anp.dot(x, weight.T) + bias
        m = anp.mean(a, 0)
        centred = a - m
        v = anp.mean(centred**2, 0)
        mean += 0.1 * (getval(m) - mean)
        var += 0.1 * (getval(v) * (len(x) / (len(x) - 1)) - var)
        x = x + anp.maximum(centred * ((v + 1e-5) ** -0.5 * gamma) + beta, 0)
    return anp.dot(x, params[-2].T) + params[-1]


def conv(params, stats, x):
    x = anp.transpose(x, (0, 2, 3, 1))  # channels last: patches are rows of a matrix
    for weight, bias in ((params[0], params[1]), (params[2], params[3])):
        n, h, w, c = x.shape
        padded = anp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "constant")
        shifts = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        rows = anp.reshape(anp.concatenate(shifts, 3), (n * h * w, 9 * c))
        filters = anp.reshape(anp.transpose(weight, (2, 3, 1, 0)), (9 * c, -1))
        a = anp.maximum(anp.dot(rows, filters) + bias, 0)
        x = anp.max(anp.reshape(a, (n, h // 2, 2, w // 2, 2, -1)), (2, 4))
    rows = anp.reshape(anp.transpose(x, (0, 3, 1, 2)), (len(x), -1))
    return anp.dot(rows, params[4].T) + params[5]


def log_softmax(z):
    z = z - getval(z).max(1, keepdims=True)
    return z - anp.log(anp.sum(anp.exp(z), 1, keepdims=True))


def build(w: Workload, lr: float) -> Step:
    if w.kind == "quadratic":
        theta = initial(w)[0]
        quadratic = value_and_grad(lambda t: 0.5 * anp.sum(anp.dot(t, HESSIAN) * t))

        def descend():
            nonlocal theta
            value, g = quadratic(theta)
            theta = theta - lr * g
            return value

        return Step(descend, lambda: [theta.copy()])

    x, y = data(w)
    network = {"dense": dense, "residual": residual, "conv": conv}[w.kind]
    blocks = len(w.widths) - 2 if w.kind == "residual" else 0
    stats = [(np.zeros(n, np.float32), np.ones(n, np.float32)) for n in w.widths[1 : blocks + 1]]
    hot = np.eye(w.widths[-1], dtype=np.float32)[y] if not w.regression else None

    def loss(params):
        z = network(params, stats, x)
        if w.regression:
            return anp.mean((z - y) ** 2)
        return -anp.sum(log_softmax(z) * hot) / len(x)

    gradient = value_and_grad(loss)
    theta, unflatten = flatten(initial(w))
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    t = 0

    def take():
        nonlocal theta, m, v, t
        value, grads = gradient(unflatten(theta))
        g, _ = flatten(grads)
        t += 1
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        theta = theta - lr / (1 - 0.9**t) * m / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return value

    return Step(take, lambda: [np.array(p) for p in unflatten(theta)])
