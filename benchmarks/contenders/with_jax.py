"""JAX: the whole step in one compiled function that may overwrite its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..workloads import HESSIAN, Workload, data, initial
from . import Step

# Compute in the calling thread: one thread, as everybody else here.
jax.config.update("jax_cpu_enable_async_dispatch", False)


def dense(params, stats, x):
    *hidden, last = zip(params[::2], params[1::2], strict=True)
    for weight, bias in hidden:
        x = jax.nn.relu(x @ weight.T + bias)
    return x @ last[0].T + last[1], stats


def residual(params, stats, x):
    """The blocks' parameters are stacked, and the network is a scan over them."""

    def block(x, one):
        weight, bias, gamma, beta, mean, var = one
        a = x @ weight.T + bias
        m, v = a.mean(0), a.var(0)
        new = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * len(x) / (len(x) - 1)
        return x + jax.nn.relu((a - m) * lax.rsqrt(v + 1e-5) * gamma + beta), new

    *blocks, weight, bias = params
    x, stats = lax.scan(block, x, (*blocks, *stats))
    return x @ weight.T + bias, stats


def conv(params, stats, x):
    layout = ("NHWC", "OIHW", "NHWC")
    x = x.transpose(0, 2, 3, 1)
    for weight, bias in ((params[0], params[1]), (params[2], params[3])):
        x = lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + bias)
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))  # reduce_window takes twice as long
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1) @ params[4].T + params[5], stats


def loss(network, params, stats, x, y):
    z, stats = network(params, stats, x)
    if y.ndim == 2:
        return jnp.mean((z - y) ** 2), stats
    chosen = jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1)
    return -chosen.mean(), stats


def adam(params, grads, m, v, t, lr):
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
    rate, root = lr / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), params, m, v)
    return params, m, v


def build(w: Workload, lr: float) -> Step:
    start = initial(w)
    blocks = len(w.widths) - 2 if w.kind == "residual" else 0
    if blocks:
        start = [np.stack(start[i : 4 * blocks : 4]) for i in range(4)] + start[-2:]
    start = [jnp.array(a) for a in start]
    if w.kind == "quadratic":
        hessian = jnp.asarray(HESSIAN)

        def step(theta):
            value, g = jax.value_and_grad(lambda t: 0.5 * jnp.sum((t @ hessian) * t))(theta)
            return value, (theta - lr * g,)

        state = (start[0],)
    else:
        x, y = (jnp.asarray(a) for a in data(w))
        network = {"dense": dense, "residual": residual, "conv": conv}[w.kind]
        gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)

        def step(params, stats, m, v, t):
            (value, stats), grads = gradient(network, params, stats, x, y)
            params, m, v = adam(params, grads, m, v, t + 1, lr)
            return value, (params, stats, m, v, t + 1)

        stats = (
            (jnp.zeros((blocks, w.widths[1])), jnp.ones((blocks, w.widths[1]))) if blocks else ()
        )
        state = (start, stats, *([jnp.zeros_like(p) for p in start] for _ in "mv"), jnp.float32(0))
    step = jax.jit(step, donate_argnums=range(len(state)))

    def take():
        nonlocal state
        value, state = step(*state)
        return value.block_until_ready()

    def now():
        arrays = [np.array(p) for p in (state if w.kind == "quadratic" else state[0])]
        if blocks:
            arrays = [a[i] for i in range(blocks) for a in arrays[:4]] + arrays[4:]
        return arrays

    return Step(take, now)
