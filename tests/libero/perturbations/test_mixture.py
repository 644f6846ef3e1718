"""Perturbations as data: fields, draws, levels, and the forms in which they are passed on."""

import json

import numpy as np
import pytest

from srpo_env.libero.perturbations import (
    DIMENSIONS,
    LEVELS,
    Background,
    Camera,
    Language,
    Layout,
    Light,
    Noise,
    RobotState,
    as_data,
    as_mixture,
    as_text,
    resolved,
)

ALL = [kind.from_level(3, draw=5) for kind in DIMENSIONS.values()]


def test_there_are_the_seven_dimensions_of_libero_plus():
    assert list(DIMENSIONS) == [
        "camera", "robot", "language", "light", "background", "noise", "layout",
    ]  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_text_and_data_give_the_same_perturbation_again(dimension, level):
    mixture = as_mixture(DIMENSIONS[dimension].from_level(level, draw=level))
    assert as_mixture(as_text(mixture)) == mixture
    assert as_mixture(as_data(mixture)) == mixture
    json.dumps(as_data(mixture))  # plain data


def test_a_mixture_is_in_one_order_and_the_layout_comes_first():
    mixture = as_mixture(ALL[::-1])
    assert mixture == as_mixture(ALL)
    assert mixture[0].dimension == "layout"
    assert as_text(mixture) == as_text(as_mixture(ALL))


def test_equal_numbers_of_different_types_are_equal():
    one, other = RobotState(radius=np.float32(0.5), draw=np.int64(1)), RobotState(
        radius=0.5, draw=1
    )  # fmt: skip
    assert one == other
    assert as_text((one,)) == as_text((other,))
    assert as_text((Camera(azimuth=30),)) == as_text((Camera(azimuth=30.0),))


@pytest.mark.parametrize("nothing", [None, (), [], "", "[]"])
def test_nothing_is_an_empty_mixture(nothing):
    assert as_mixture(nothing) == ()


def test_a_missing_draw_is_drawn_and_a_given_one_is_kept():
    mixture = as_mixture([Camera(azimuth=10), Noise(severity=3, draw=7)])
    first, again, other = (resolved(mixture, np.random.default_rng(s)) for s in (0, 0, 1))
    assert first == again
    assert first[0].draw != other[0].draw
    assert first[1].draw == other[1].draw == 7


def test_draws_of_two_dimensions_are_independent():
    numbers = [kind(draw=3).generator().random() for kind in DIMENSIONS.values()]
    assert len(set(numbers)) == len(numbers)


def test_a_level_is_stronger_than_the_one_below():
    sizes = [
        [Camera.from_level(k).azimuth, Camera.from_level(k).distance, Camera.from_level(k).turn,
         RobotState.from_level(k).radius, Language.from_level(k).level, Light.from_level(k).gain,
         Light.from_level(k).tilt, Background.from_level(k).opacity, Noise.from_level(k).severity,
         Layout.from_level(k).distractors, Layout.from_level(k).shift]
        for k in LEVELS
    ]  # fmt: skip
    assert (np.diff(sizes, axis=0) > 0).all()


def test_the_ranges_of_the_levels_are_those_of_libero_plus():
    last = {name: kind.from_level(5) for name, kind in DIMENSIONS.items()}
    assert (last["camera"].azimuth, last["camera"].distance, last["camera"].turn) == (75, 2, 10)
    assert Camera.from_level(1).distance == 1.15
    assert (RobotState.from_level(1).radius, last["robot"].radius) == (0.1, 0.5)
    assert last["noise"].severity == 10
    assert (Layout.from_level(1).distractors, last["layout"].distractors) == (1, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Camera(azimuth=76), "`azimuth` of Camera must be in 0..75, got 76"),
        (lambda: Camera(distance=0.9), "`distance` of Camera must be in 1..2"),
        (lambda: Camera(view=(1, 2)), "`view` of Camera must be 5 numbers"),
        (lambda: Camera(view=(1, 2, 3, 4, float("nan"))), "`view` of Camera must be 5 numbers"),
        (lambda: Camera(view=(1, 2, 1, 4, 5), turn=3), "leave out azimuth, distance and turn"),
        (lambda: RobotState(radius=float("nan")), "`radius` of RobotState must be in 0..0.5"),
        (lambda: RobotState(offsets=[0.1] * 6), "`offsets` of RobotState must be 7 numbers"),
        (lambda: RobotState(radius=0.1, offsets=[0.1] * 7), "leave out `radius`"),
        (lambda: Language(level=6), "`level` of Language must be an integer in 0..5, got 6"),
        (lambda: Language(level=2.0), "must be an integer in 0..5, got 2.0"),
        (lambda: Language(text=" "), "`text` of Language must not be empty"),
        (lambda: Light(gain=0.5), "`gain` of Light must be in 1..4, got 0.5"),
        (lambda: Light(shadows=1), "`shadows` of Light must be a bool, got 1"),
        (lambda: Background(opacity=2), "`opacity` of Background must be in 0..1"),
        (lambda: Background(surfaces=("sky",)), "`surfaces` of Background must be some of floor"),
        (lambda: Background(surfaces="floor"), "`surfaces` of Background must be some of floor"),
        (lambda: Noise(severity=11), "`severity` of Noise must be an integer in 0..10"),
        (lambda: Noise(kind="snow"), "`kind` must be 'motion' or 'gaussian'"),
        (lambda: Layout(distractors=True), "must be an integer in 0..5, got True"),
        (lambda: Layout(shift=0.2), "`shift` of Layout must be in 0..0.15"),
        (lambda: Camera(draw=-1), "`draw` of Camera must be an integer in 0..2.14748e"),
        (lambda: Camera.from_level(0), "a level must be an integer in 1..5, got 0"),
        (lambda: Camera.from_level(2.0), "a level must be an integer in 1..5, got 2.0"),
        (lambda: as_mixture("camera"), "`perturbation` must be JSON if it is a text"),
        (lambda: as_mixture(3), "one or several of Camera, RobotState, .*, got 3"),
        (lambda: as_mixture([Camera(), None]), "one or several of Camera, .*, got None"),
        (lambda: as_mixture([Camera(), Camera()]), "got two of 'camera'"),
        (lambda: as_mixture({"dimension": "sound"}), "must be one of camera, .*, got 'sound'"),
        (lambda: as_mixture({"dimension": "noise", "size": 1}), "has the fields draw, .* 'size'"),
        (lambda: as_mixture('[{"dimension": "noise", "severity": -1}]'), "0..10, got -1"),
        (lambda: Camera(azimuth=10).drawn_view(), "has no draw yet: call `resolved` first"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
