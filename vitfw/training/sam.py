"""Sharpness-aware minimisation: descend by the gradient at the worst point nearby."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from vitfw.errors import ConfigError


class SAM(Optimizer):
    """Step `base` by the gradient at w + e, the highest point within `rho` of w, to first order.

    e = rho · g / ‖g‖, over all parameters; `adaptive` measures the distance in units of each
    weight, e = rho · w² g / ‖w g‖. A step evaluates its closure twice. The second time draws the
    same random numbers, leaves the running statistics of batch norms alone and has `second_pass`
    set, for whoever counts batches. Groups and state are those of `base`.

    Raises:
        ConfigError: `rho` is not above 0; a step without closure.

    Source: Foret et al. 2021; Kwon et al. 2021 for `adaptive`.
    """

    def __init__(self, base: Optimizer, net: nn.Module, rho: float = 0.05, adaptive: bool = False):
        if not rho > 0.0:
            raise ConfigError(
                f"optimizer.rho={rho} is how far SAM looks ahead: above 0, such as 0.05"
            )
        super().__init__(base.param_groups, {})
        self.base = base
        self.rho = rho
        self.adaptive = adaptive
        self.second_pass = False
        self.batch_norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
        self._share_state()

    def _share_state(self) -> None:
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self._share_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of `base`; returns what the closure returned at w."""
        if closure is None:
            raise ConfigError(
                "optimizer=sam evaluates each batch twice, which trainer.precision=16-mixed does "
                "not let it; type trainer.precision=bf16-mixed or 32-true"
            )
        closure = torch.enable_grad()(closure)
        draws = Draws([p for group in self.param_groups for p in group["params"]])
        loss = closure()
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [parameter.clone() for parameter in moving]
        torch._foreach_add_(moving, self._climb(moving))
        try:
            with draws.again(), self._in_second_pass():
                closure()
        finally:
            torch._foreach_copy_(moving, before)
        self.base.step()
        return loss

    def _climb(self, weights: list[Tensor]) -> list[Tensor]:
        """e of the class's docstring, from the gradients that the weights have."""
        slopes = [weight.grad for weight in weights if weight.grad is not None]
        sizes = torch._foreach_abs(weights) if self.adaptive else ()
        if sizes:
            slopes = torch._foreach_mul(slopes, sizes)
        scale = self.rho / (torch.nn.utils.get_total_norm(slopes) + 1e-12)
        if sizes:
            slopes = torch._foreach_mul(slopes, sizes)
        return list(torch._foreach_mul(slopes, scale))

    @contextmanager
    def _in_second_pass(self) -> Iterator[None]:
        tracking = [module.track_running_stats for module in self.batch_norms]
        self.second_pass = True
        try:
            for module in self.batch_norms:
                module.track_running_stats = False
            yield
        finally:
            self.second_pass = False
            for module, tracks in zip(self.batch_norms, tracking, strict=True):
                module.track_running_stats = tracks


class Draws:
    """Torch's random state as it is now, on the CPU and the GPUs that hold `tensors`."""

    def __init__(self, tensors: list[Tensor]):
        self.gpus = sorted({tensor.get_device() for tensor in tensors if tensor.is_cuda})
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(gpu) for gpu in self.gpus]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, what is drawn is what was drawn since; outside, nothing has been."""
        with torch.random.fork_rng(self.gpus):
            torch.set_rng_state(self.cpu)
            for gpu, state in zip(self.gpus, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, gpu)
            yield
