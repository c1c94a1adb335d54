"""Hydra's sweep syntax becomes Optuna's distributions, and comes back as it was typed."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vitfw.errors import ConfigError
from vitfw.sweep.space import read_space


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lr=interval(0.1, 2)", FloatDistribution(0.1, 2.0)),
        ("lr=tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("n=int(interval(1, 8))", IntDistribution(1, 8)),
        ("n=tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
        ("n=range(2, 9, 3)", IntDistribution(2, 8, step=3)),
        ("n=range(8, 0, -2)", IntDistribution(2, 8, step=2)),
        ("n=range(4)", IntDistribution(0, 3)),
        ("p=range(0, 0.5, 0.1)", FloatDistribution(0.0, 0.4, step=0.1)),
        ("+m=a,b", CategoricalDistribution(["a", "b"])),
        ("m=choice(1e-3,1,true)", CategoricalDistribution(["0.001", "1", "True"])),
        ("m=shuffle(a,b)", CategoricalDistribution(["a", "b"])),
    ],
)
def test_each_kind_of_range_has_its_distribution(word, expected):
    (dimension,) = read_space({}, [word]).dimensions
    found = dimension.distribution
    if isinstance(expected, CategoricalDistribution):
        assert sorted(found.choices) == sorted(expected.choices)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "values", ["[1,2],[0.5,1]", "null,0.1", "'a b','c=d,e'", "1,1.0,true,one", "{a:1},{b:2}"]
)
def test_choices_come_back_as_the_same_values(values):
    (dimension,) = read_space({}, [f"+key={values}"]).dimensions
    parser = OverridesParser.create()
    (typed,) = parser.parse_overrides([f"+key={values}"])
    back = [parser.parse_overrides([dimension.word(value)])[0] for value in dimension.values()]
    assert [each.value() for each in back] == [
        parser.parse_overrides([f"+key={text}"])[0].value()
        for text in typed.sweep_string_iterator()
    ]
    assert len(back) == len(list(typed.sweep_iterator()))
    assert all(each.is_add() for each in back)


def test_numbers_come_back_exactly_and_steps_without_rounding_noise():
    space = read_space({}, ["lr=tag(log, interval(1e-5, 1))", "p=range(0, 0.5, 0.1)"])
    lr, p = space.dimensions
    assert float(lr.word(1 / 3).partition("=")[2]) == 1 / 3
    assert [p.word(value) for value in p.values()] == ["p=0", "p=0.1", "p=0.2", "p=0.3", "p=0.4"]
    assert p.word(0.1 + 0.2) == "p=0.3"


def test_what_is_typed_wins_over_the_params_of_a_file():
    params = {"optimizer.lr": "interval(0, 1)", "model": {"depth": [2, 4]}, "seed": 3}
    space = read_space(params, ["optimizer.lr=1e-3,2e-3", "data=digits", "seed=5"])
    assert {d.name: d.values() for d in space.dimensions} == {
        "model.depth": ["2", "4"],
        "optimizer.lr": ["0.001", "0.002"],
    }
    assert sorted(space.fixed) == ["data=digits", "seed=5"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr=1e-3", "nothing to search over"),
        ("lr=range(3, 3)", "the range is empty"),
        ("lr=interval(2, 1)", "the interval is empty"),
        ("lr=tag(log, interval(0, 1))", "lower end above 0"),
        ("lr=tag(log, choice(1, 2))", "choices have no logarithm"),
        ("lr=tag(log, range(0, 1, 0.1))", "in steps of 1"),
        ("lr=tag(cosine, interval(0, 1))", "the only tag"),
        ("lr=interval(0", "is no override"),
    ],
)
def test_a_range_that_cannot_be_searched_is_refused_in_one_line(word, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_space({}, [word])
    assert "\n" not in str(caught.value)
