"""Our figures against app_queue's, which are looked at at other times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asterisk_exporter.collectors.queues import Queue
from asterisk_exporter.journal.drift import QueueDrift, Totals

BEGIN = 1_795_505_000.0


class World:
    """Asterisk, its log, and those who look: a read of the log each second, scrapes between."""

    def __init__(self) -> None:
        self.drift = QueueDrift()
        self.now = BEGIN
        self.theirs = {"q": [7, 3]}
        self.ours = {"q": [100, 50]}
        self.starts = 0

    def happens(self, completed: int = 0, abandoned: int = 0, queue: str = "q") -> None:
        for figures in (self.theirs, self.ours):
            figures.setdefault(queue, [0, 0])
            figures[queue][0] += completed
            figures[queue][1] += abandoned

    def scrape(self) -> None:
        self.drift.observe(
            self.now,
            [Queue(name, 0, (), (), *figures) for name, figures in self.theirs.items()],
        )

    def read(self) -> None:
        figures = {queue: tuple(figures) for queue, figures in self.ours.items()}
        self.drift.counted(self.now, Totals(self.starts, figures))

    def compare(self) -> dict[str, float]:
        """Let enough reads pass for a scrape between them to be compared."""
        for _ in range(2):
            self.now += 1
            self.read()
        self.now += 0.5
        self.scrape()
        for _ in range(3):
            self.now += 1
            self.read()
        return self.shown()

    def shown(self) -> dict[str, float]:
        (family,) = self.drift.families()
        return {sample.labels["queue"]: sample.value for sample in family.samples}


@pytest.fixture
def world():
    return World()


def test_nothing_is_shown_before_the_first_comparison(world):
    assert world.shown() == {}
    world.scrape()
    world.read()
    assert world.shown() == {}


def test_both_grow_alike(world):
    assert world.compare() == {"q": 0}
    world.happens(5, 2)
    assert world.compare() == {"q": 0}


@pytest.mark.parametrize(
    ("theirs", "ours", "drift"),
    [((1, 0), (0, 0), 1), ((0, 0), (0, 2), 2), ((3, 0), (0, 1), 4), ((1, 1), (1, 1), 0)],
)
def test_a_difference(world, theirs, ours, drift):
    world.compare()
    for figures, by in ((world.theirs, theirs), (world.ours, ours)):
        figures["q"][0] += by[0]
        figures["q"][1] += by[1]
    assert world.compare() == {"q": drift}
    world.happens(4, 4)
    assert world.compare() == {"q": drift}  # it does not go away


def test_calls_that_end_between_the_looks_are_no_difference(world):
    world.compare()
    for _ in range(3):
        world.now += 1
        world.read()
        world.happens(1, 1)
        world.now += 0.3
    world.scrape()
    for _ in range(3):
        world.happens(1, 0)
        world.now += 1
        world.read()
    assert world.shown() == {"q": 0}
    # and what was uncertain then is not forgiven for ever
    for _ in range(2):
        assert world.compare() == {"q": 0}
    world.theirs["q"][0] += 1
    assert world.compare() == {"q": 1}


def test_what_was_uncertain_at_first_sight_is_not_forgiven_for_ever(world):
    for _ in range(3):
        world.now += 1
        world.read()
        world.happens(2, 2)
    world.scrape()
    for _ in range(3):
        world.now += 1
        world.happens(2, 2)
        world.read()
    assert world.shown() == {"q": 0}
    assert world.compare() == {"q": 0}
    world.theirs["q"][0] += 1
    world.theirs["q"][1] += 1
    assert world.compare() == {"q": 2}


def test_a_line_that_is_written_just_after_the_figure_is_no_difference(world):
    world.compare()
    world.now += 2
    world.read()
    world.theirs["q"][0] += 1
    world.now += 1.5
    world.scrape()
    world.now += 0.1
    world.read()
    world.ours["q"][0] += 1
    assert world.shown() == {"q": 0}
    for _ in range(3):
        world.now += 1
        world.read()
    assert world.shown() == {"q": 0}


def test_their_reset_begins_anew(world):
    world.compare()
    world.theirs["q"] = [0, 0]
    assert world.compare() == {"q": 0}
    world.happens(1, 1)
    assert world.compare() == {"q": 0}
    world.theirs["q"][1] += 1
    assert world.compare() == {"q": 1}


def test_a_start_of_asterisk_begins_anew(world):
    world.compare()
    world.starts += 1
    world.theirs["q"] = [8, 9]  # more than before the start already
    assert world.compare() == {"q": 0}


def test_a_queue_that_goes_and_comes_back(world):
    world.theirs["r"] = [4, 4]
    assert world.compare() == {"q": 0, "r": 0}
    del world.theirs["r"]
    assert world.compare() == {"q": 0}
    world.theirs["r"] = [5, 5]
    assert world.compare() == {"q": 0, "r": 0}


def test_a_queue_that_nobody_called_yet(world):
    world.theirs["new"] = [0, 0]
    assert world.compare() == {"q": 0, "new": 0}
    world.happens(1, 0, "new")
    assert world.compare() == {"q": 0, "new": 0}


def test_the_log_is_not_read_for_a_while(world):
    world.compare()
    world.scrape()
    world.happens(3, 3)
    for _ in range(5):
        world.now += 15
        world.scrape()
    assert world.shown() == {"q": 0}
    world.now += 1
    world.read()
    assert world.compare() == {"q": 0}


STEP = st.one_of(
    st.tuples(st.just("happens"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.sampled_from(["scrape", "read", "wait"])),
)


@given(st.lists(STEP, max_size=80), st.integers(1, 3))
def test_in_any_order_only_a_difference_is_one(steps, difference):
    world = World()
    for name, *arguments in steps:
        if name == "wait":
            world.now += 0.7
        else:
            getattr(world, name)(*arguments)
        assert set(world.shown().values()) <= {0}
    world.compare()
    world.compare()
    world.theirs["q"][1] += difference
    for _ in range(2):
        assert world.compare() == {"q": difference}
