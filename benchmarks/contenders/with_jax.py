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
    new = []
    for i, (mean, var) in enumerate(stats):
        weight, bias, gamma, beta = params[4 * i : 4 * i + 4]
        a = x @ weight.T + bias
        m, v = a.mean(0), a.var(0)
        new.append((0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * len(x) / (len(x) - 1)))
        x = x + jax.nn.relu((a - m) * lax.rsqrt(v + 1e-5) * gamma + beta)
    return x @ params[-2].T + params[-1], new


def conv(params, stats, x):
    for weight, bias in ((params[0], params[1]), (params[2], params[3])):
        x = lax.conv_general_dilated(x, weight, (1, 1), "SAME") + bias[:, None, None]
        x = jax.nn.relu(x)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return x.reshape(len(x), -1) @ params[4].T + params[5], stats


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
    start = [jnp.array(a) for a in initial(w)]
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

        blocks = len(w.widths) - 2 if w.kind == "residual" else 0
        stats = [(jnp.zeros(n), jnp.ones(n)) for n in w.widths[1 : blocks + 1]]
        state = (start, stats, *([jnp.zeros_like(p) for p in start] for _ in "mv"), jnp.float32(0))
    step = jax.jit(step, donate_argnums=range(len(state)))

    def take():
        nonlocal state
        value, state = step(*state)
        return value.block_until_ready()

    def now():
        return [np.array(p) for p in (state if w.kind == "quadratic" else state[0])]

    return Step(take, now)
