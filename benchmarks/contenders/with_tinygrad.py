"""tinygrad: its layers and its Adam, the step captured by TinyJit and then replayed."""

from tinygrad import Context, Device, Tensor, TinyJit, nn

from ..workloads import CHANNELS, FEATURES, HESSIAN, Workload, data, initial
from . import Step


def network(w: Workload) -> tuple[list, list]:
    """Functions to apply in turn, and the parameters in the order of `initial`."""
    layers, modules = [], []

    def add(module):
        modules.append(module)
        return module

    if w.kind == "conv":
        for n, m in zip(CHANNELS, CHANNELS[1:], strict=False):
            layers += [add(nn.Conv2d(n, m, 3, padding=1)), Tensor.relu, Tensor.max_pool2d]
        layers += [lambda x: x.flatten(1), add(nn.Linear(FEATURES, w.widths[-1]))]
    else:
        for n, m in zip(w.widths[:-2], w.widths[1:-1], strict=True):
            linear = add(nn.Linear(n, m))
            if w.kind == "residual":
                norm = add(nn.BatchNorm(m))
                layers.append(lambda x, linear=linear, norm=norm: x + norm(linear(x)).relu())
            else:
                layers += [linear, Tensor.relu]
        layers.append(add(nn.Linear(*w.widths[-2:])))
    return layers, [p for module in modules for p in (module.weight, module.bias)]


def build(w: Workload, lr: float) -> Step:
    if w.kind == "quadratic":
        hessian, theta = Tensor(HESSIAN), Tensor(initial(w)[0])
        parameters = [theta.is_param_()]
        optimizer = nn.optim.SGD(parameters, lr)

        def loss():
            return 0.5 * ((theta @ hessian) * theta).sum()

    else:
        x, y = (Tensor(a).realize() for a in data(w))
        layers, parameters = network(w)
        for p, a in zip(parameters, initial(w), strict=True):
            p.assign(Tensor(a)).realize()
        optimizer = nn.optim.Adam(parameters, lr)

        def loss():
            z = x.sequential(layers)
            return ((z - y) ** 2).mean() if w.regression else z.sparse_categorical_crossentropy(y)

    @TinyJit
    def step():
        optimizer.zero_grad()
        value = loss().backward()
        return value.realize(*optimizer.schedule_step())

    def take():
        with Context(TRAINING=1):
            value = step()
        Device[Device.DEFAULT].synchronize()
        return value

    return Step(take, lambda: [p.numpy().copy() for p in parameters])
