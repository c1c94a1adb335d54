"""From what Hydra's sweep syntax says to Optuna's distributions, and from values back to words."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import OverrideParseException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from vitfw.errors import ConfigError

Value = str | int | float


@dataclass(frozen=True)
class Dimension:
    """A key that is searched over. `name` is the key, `element` the same with `+` or `++`.

    Choices are kept as the text that was typed, so that `1e-3`, `[1, 2]`, `null` and `'a b'` come
    out as they went in.
    """

    name: str
    element: str
    distribution: BaseDistribution

    def word(self, value: Value) -> str:
        """The override that sets the key: `optimizer.lr=0.001`."""
        return f"{self.element}={self._text(value)}"

    def _text(self, value: Value) -> str:
        if isinstance(value, float):
            stepped = getattr(self.distribution, "step", None) is not None
            return f"{value:.12g}" if stepped else repr(value)  # 0.3, not 0.30000000000000004
        return str(value)

    def values(self) -> list[Value] | None:
        """All that it can be; None for an interval of real numbers."""
        found = self.distribution
        if isinstance(found, CategoricalDistribution):
            return [str(choice) for choice in found.choices]
        if isinstance(found, IntDistribution):
            return list(range(found.low, found.high + 1, found.step))
        if isinstance(found, FloatDistribution) and found.step is not None:
            count = round((found.high - found.low) / found.step) + 1
            return [float(f"{found.low + i * found.step:.12g}") for i in range(count)]
        return None

    def corners(self) -> list[Value]:
        """What is composed to find out whether the key takes such values: all choices, or ends."""
        found = self.distribution
        if isinstance(found, FloatDistribution | IntDistribution):
            return list(dict.fromkeys([found.low, found.high]))
        return self.values() or []


@dataclass(frozen=True)
class Space:
    """What stays the same in each trial, and what is searched over."""

    fixed: Sequence[str]
    dimensions: Sequence[Dimension]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {dimension.name: dimension.distribution for dimension in self.dimensions}

    def points(self) -> Iterator[dict[str, Value]]:
        """Of a grid: the last dimension fastest, as Hydra's own sweeper goes."""
        values = [dimension.values() or [] for dimension in self.dimensions]
        for point in itertools.product(*values):
            yield dict(zip(self.distributions, point, strict=True))

    def words(self, params: Mapping[str, Any]) -> list[str]:
        return [*self.fixed, *self.varied(params)]

    def varied(self, params: Mapping[str, Any]) -> list[str]:
        return [dimension.word(params[dimension.name]) for dimension in self.dimensions]


def read_space(
    params: Mapping[str, Any], typed: Sequence[str], loader: ConfigLoader | None = None
) -> Space:
    """From `hydra.sweeper.params` and the words of the command line, which win.

    `loader` is needed for `glob(…)` over the options of a group.

    Raises:
        ConfigError: nothing is searched over, a range is empty, a tag is unknown.
    """
    parser = OverridesParser.create(config_loader=loader)
    found: dict[str, Override] = {}
    for word in [*words_of(params), *typed]:
        try:
            (override,) = parser.parse_overrides([word])
        except OverrideParseException as error:
            raise ConfigError(
                f"{word!r} is no override; a search is written key=1,2 or "
                "key=tag(log, interval(1e-4, 1e-2))"
            ) from error
        name = override.get_key_element().lstrip("+~")
        found.pop(name, None)  # what is typed stands where it was typed
        found[name] = override
    swept = {name: each for name, each in found.items() if each.is_sweep_override()}
    if not swept:
        raise ConfigError(
            "hydra/sweeper=optuna has nothing to search over; give a range, such as "
            "'optimizer.lr=tag(log, interval(1e-4, 1e-2))' or model.depth=4,6,8"
        )
    fixed = [str(each.input_line) for name, each in found.items() if name not in swept]
    dimensions = [
        Dimension(name, each.get_key_element(), distribution_of(each))
        for name, each in swept.items()
    ]
    return Space(fixed, dimensions)


def words_of(params: Mapping[str, Any], above: str = "") -> list[str]:
    """`{optimizer: {lr: [1, 2]}}` and `{"optimizer.lr": "choice(1, 2)"}` as overrides."""
    words = []
    for key, value in params.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            words += words_of(value, f"{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words.append(f"{name}=choice({','.join(map(plain_text, value))})")
        else:
            words.append(f"{name}={plain_text(value)}")
    return words


def plain_text(value: Any) -> str:
    """A value out of YAML as an override has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(plain_text, value))}]"
    return str(value)


def distribution_of(override: Override) -> BaseDistribution:
    """Raises ConfigError: it is empty, or a logarithm is asked for where there is none."""
    text = str(override.input_line)
    sweep: Any = override.value()
    tags = set(getattr(sweep, "tags", ()))
    if tags - {"log"}:
        raise ConfigError(f"{text}: the only tag a search knows is log")
    log = "log" in tags
    if isinstance(sweep, IntervalSweep):
        return interval(text, sweep.start, sweep.end, log)
    if log and not isinstance(sweep, RangeSweep):
        raise ConfigError(f"{text}: choices have no logarithm; use tag(log, interval(low, high))")
    if isinstance(sweep, RangeSweep):
        return stepped(text, list(override.sweep_iterator()), sweep.step, log)
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ConfigError(f"{text} searches over nothing: there is no choice")
    return CategoricalDistribution(choices)


def interval(text: str, low: Any, high: Any, log: bool) -> BaseDistribution:
    """Real numbers, or whole ones from `int(interval(1, 8))`, both ends with them."""
    if low is None or high is None or not low < high:
        raise ConfigError(f"{text} searches over nothing: the interval is empty")
    if log and low <= 0:
        raise ConfigError(f"{text}: a logarithm needs a lower end above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def stepped(text: str, values: list[Any], step: Any, log: bool) -> BaseDistribution:
    """Equal steps; the end of `range` is not among them, as in Python."""
    if not values:
        raise ConfigError(f"{text} searches over nothing: the range is empty")
    low, high, step = min(values), max(values), abs(step)
    if log and (isinstance(low, float) or step != 1 or low < 1):
        raise ConfigError(
            f"{text}: only range(low, high) from 1 up can be tagged log, in steps of 1"
        )
    if isinstance(low, int):
        return IntDistribution(low, high, log=log, step=step)
    low, step = float(f"{low:.12g}"), float(f"{step:.12g}")
    return FloatDistribution(low, float(f"{high:.12g}"), step=step)
