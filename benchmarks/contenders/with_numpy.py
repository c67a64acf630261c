"""NumPy by hand: the derivatives worked out on paper, no graph, memory set aside beforehand."""

import math

import numpy as np

from ..workloads import CHANNELS, HESSIAN, Workload, data, initial
from . import Step

EPS, MOMENTUM = 1e-5, 0.1  # of batch norm


def pack(arrays):
    """The arrays as views of one vector, so that Adam is a few lines over all of them."""
    vector = np.concatenate([a.ravel() for a in arrays])
    ends = np.cumsum([a.size for a in arrays])
    parts = np.split(vector, ends[:-1])
    return vector, [part.reshape(a.shape) for part, a in zip(parts, arrays, strict=True)]


def mean_squared_error(z, y):
    z -= y
    loss = np.vdot(z, z) / z.size
    z *= 2 / z.size
    return loss, z


def cross_entropy(z, y):
    """The loss, and its derivative by the logits in their memory."""
    rows = np.arange(len(z))
    z -= z.max(1, keepdims=True)
    chosen = z[rows, y]
    np.exp(z, out=z)
    total = z.sum(1, keepdims=True)
    loss = (np.log(total[:, 0]) - chosen).mean()
    z /= total
    z[rows, y] -= 1
    z /= len(z)
    return loss, z


def dense(w, x, y, p, d):
    """The function that fills the gradients d at parameters p and returns the loss."""
    weights, biases, d_weights, d_biases = p[::2], p[1::2], d[::2], d[1::2]
    h = [x] + [np.empty((len(x), n), np.float32) for n in w.widths[1:]]
    back = [np.empty_like(a) for a in h]
    ones = np.ones(len(x), np.float32)
    criterion = mean_squared_error if w.regression else cross_entropy
    last = len(weights) - 1

    def gradient():
        for i in range(last + 1):
            np.matmul(h[i], weights[i].T, out=h[i + 1])
            h[i + 1] += biases[i]
            if i < last:
                np.maximum(h[i + 1], 0, out=h[i + 1])
        loss, g = criterion(h[-1], y)
        for i in range(last, -1, -1):
            np.matmul(g.T, h[i], out=d_weights[i])
            np.matmul(ones, g, out=d_biases[i])  # faster than a sum over rows
            if i:
                g = np.matmul(g, weights[i], out=back[i])
                g *= h[i] > 0
        return loss

    return gradient


def residual(w, x, y, p, d):
    blocks, n = len(w.widths) - 2, len(x)
    ones = np.ones(n, np.float32)
    running = [(np.zeros(m, np.float32), np.ones(m, np.float32)) for m in w.widths[1:-1]]

    def gradient():
        h, saved = x, []
        for i, (mean, var) in enumerate(running):
            weight, bias, gamma, beta = p[4 * i : 4 * i + 4]
            a = h @ weight.T
            a += bias
            m = ones @ a
            m /= n
            a -= m
            v = np.einsum("ij,ij->j", a, a)
            v /= n
            scale = 1 / np.sqrt(v + EPS)
            a *= scale
            z = a * gamma
            z += beta
            np.maximum(z, 0, out=z)
            saved.append((h, a, scale, z))
            h = h + z
            mean += MOMENTUM * (m - mean)
            var += MOMENTUM * (v * (n / (n - 1)) - var)
        loss, g = cross_entropy(h @ p[-2].T + p[-1], y)
        np.matmul(g.T, h, out=d[-2])
        np.matmul(ones, g, out=d[-1])
        g = g @ p[-2]
        for i in range(blocks - 1, -1, -1):
            weight, _, gamma, _ = p[4 * i : 4 * i + 4]
            d_weight, d_bias, d_gamma, d_beta = d[4 * i : 4 * i + 4]
            h, a, scale, z = saved.pop()
            e = g * (z > 0)
            np.einsum("ij,ij->j", e, a, out=d_gamma)
            np.matmul(ones, e, out=d_beta)
            a *= d_gamma / n
            e -= a
            e -= d_beta / n
            e *= gamma * scale
            np.matmul(e.T, h, out=d_weight)
            np.matmul(ones, e, out=d_bias)
            if i:
                g += e @ weight
        return loss

    return gradient


def conv(w, x, y, p, d):
    """Images channels last; a convolution is a product with the matrix of all 3×3 patches."""
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    n = len(x)
    sizes = [(8, CHANNELS[0], CHANNELS[1]), (4, CHANNELS[1], CHANNELS[2])]  # side, in, out
    padded = [np.zeros((n, s + 2, s + 2, c), np.float32) for s, c, _ in sizes]
    rows = [np.empty((n, s, s, 3, 3, c), np.float32) for s, c, _ in sizes]
    matrices = [r.reshape(n * s * s, 9 * c) for r, (s, c, _) in zip(rows, sizes, strict=True)]

    def quarters(a):
        return a[:, ::2, ::2], a[:, ::2, 1::2], a[:, 1::2, ::2], a[:, 1::2, 1::2]

    def gradient():
        h, saved = x, []
        for i, (s, _, out) in enumerate(sizes):
            padded[i][:, 1:-1, 1:-1] = h
            patches = np.lib.stride_tricks.sliding_window_view(padded[i], (3, 3), (1, 2))
            rows[i][...] = patches.transpose(0, 1, 2, 4, 5, 3)
            filters = p[2 * i].transpose(0, 2, 3, 1).reshape(out, -1)
            a = matrices[i] @ filters.T
            a += p[2 * i + 1]
            np.maximum(a, 0, out=a)
            a = a.reshape(n, s, s, out)
            q = quarters(a)
            h = np.maximum(np.maximum(q[0], q[1]), np.maximum(q[2], q[3]))
            saved.append((filters, a, h))
        flat = h.transpose(0, 3, 1, 2).reshape(n, -1)
        loss, g = cross_entropy(flat @ p[4].T + p[5], y)
        np.matmul(g.T, flat, out=d[4])
        g.sum(0, out=d[5])
        g = (g @ p[4]).reshape(n, -1, 2, 2).transpose(0, 2, 3, 1)
        for i in (1, 0):
            s, c, out = sizes[i]
            filters, a, h = saved.pop()
            g = g * (h > 0)  # where relu gave 0 several entries may share the maximum: none counts
            e = np.empty_like(a)
            for part, q in zip(quarters(e), quarters(a), strict=True):
                np.multiply(g, q == h, out=part)
            e = e.reshape(-1, out)
            d[2 * i][...] = (e.T @ matrices[i]).reshape(out, 3, 3, c).transpose(0, 3, 1, 2)
            e.sum(0, out=d[2 * i + 1])
            if i:
                patches = (e @ filters).reshape(n, s, s, 3, 3, c)
                g = np.zeros((n, s + 2, s + 2, c), np.float32)
                for j in range(3):
                    for k in range(3):
                        g[:, j : j + s, k : k + s] += patches[:, :, :, j, k]
                g = g[:, 1:-1, 1:-1]
        return loss

    return gradient


def adam(theta, g, m, v, spare, t, lr):
    np.multiply(g, 0.1, out=spare)
    m *= 0.9
    m += spare
    np.multiply(g, g, out=spare)
    spare *= 0.001
    v *= 0.999
    v += spare
    root = math.sqrt(1 - 0.999**t)
    np.sqrt(v, out=spare)
    spare += 1e-8 * root
    np.divide(m, spare, out=spare)
    spare *= lr * root / (1 - 0.9**t)
    theta -= spare


def build(w: Workload, lr: float) -> Step:
    theta, p = pack(initial(w))
    if w.kind == "quadratic":

        def descend():
            g = p[0] @ HESSIAN
            loss = 0.5 * np.vdot(g, p[0])
            g *= lr
            p[0] -= g
            return loss

        return Step(descend, lambda: [a.copy() for a in p])

    g, d = pack([np.zeros_like(a) for a in p])
    x, y = data(w)
    gradient = {"dense": dense, "residual": residual, "conv": conv}[w.kind](w, x, y, p, d)
    m, v, spare = np.zeros_like(g), np.zeros_like(g), np.empty_like(g)
    t = 0

    def take():
        nonlocal t
        loss = gradient()
        t += 1
        adam(theta, g, m, v, spare, t, lr)
        return loss

    return Step(take, lambda: [a.copy() for a in p])
