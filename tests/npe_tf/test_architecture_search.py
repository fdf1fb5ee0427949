"""The search, with scores that are made up; `tests/experiments/test_search.py` fits."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from npe_tf.architecture_search import (
    ArchitectureSearch,
    PartScore,
    SearchSpace,
    best,
    table,
    to_dict,
)
from npe_tf.bias.architecture import Architecture

pytest.importorskip("optuna")

SPACE = SearchSpace(
    kernel_size=(3, 5),
    orders=((0,), (0, 1)),
    num_layers=(1, 2),
    num_components=(1, 2, 3),
    invariants=("power",),
    heads=(("normal", "log_mass"),),
    max_radius=2,
)
BETTER = Architecture(orders=(0, 1))
WORSE = Architecture(5)


class Scores:
    """Higher for BETTER, lower for all others, and a count of what was asked."""

    def __init__(self, fails=(), stop_after=None):
        self.asked = []
        self.fails, self.stop_after = fails, stop_after

    def __call__(self, architecture, number):
        if architecture in self.fails:
            raise RuntimeError("None of 3 starts reached a finite likelihood")
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((architecture, number))
        gain = 0.0 if architecture == Architecture() else -20.0 - architecture.num_components
        if architecture == BETTER:
            gain = 10.0 + (-1) ** number
        return PartScore(-1000.0 * (number + 1) + gain, 50 + number)


def search(path, scores, parts=(0, 1, 2, 3), **options):
    settings = options.pop("settings", {"grid": 8})
    return ArchitectureSearch(path / "search.db", SPACE, scores, parts, settings, **options)


def test_scores_are_compared_part_by_part(tmp_path):
    found = search(tmp_path, Scores(), prune=False)
    found.run(2, [BETTER, WORSE])
    reference, first, second = found.rows()
    assert [row["state"] for row in (reference, first, second)] == [
        "reference", "complete", "complete",
    ]  # fmt: skip
    assert reference["log_likelihood"] == [-1000.0, -2000.0, -3000.0, -4000.0]
    assert reference["gain"] == 0.0
    assert first["architecture"]["orders"] == [0, 1]
    assert first["gain"] == 10.0
    # the scatter of 11, 9, 11, 9
    np.testing.assert_allclose(first["gain_standard_error"], np.std([11, 9] * 2, ddof=1) / 2.0)
    assert second["gain"] == -22.0
    assert first["num_haloes"] == [50, 51, 52, 53]
    assert first["num_parameters"] == BETTER.num_parameters
    assert best(found.rows()) == (BETTER, True)
    assert best([reference, second]) == (Architecture(), False)
    settings = json.loads(json.dumps(to_dict(found)))["settings"]
    assert (settings["grid"], settings["parts"]) == (8, [0, 1, 2, 3])
    assert settings["space"]["max_radius"] == 2
    lines = table(found.rows()).splitlines()
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1
    assert "(the paper)" in lines[2] and "10.0 ± 0.6" in lines[3]


def test_a_gain_within_its_error_is_none():
    row = {"state": "complete", "gain": 2.9, "gain_standard_error": 1.0}
    row["architecture"] = json.loads(BETTER.to_json())
    assert best([row]) == (BETTER, False)
    assert best([{**row, "gain": 3.1}]) == (BETTER, True)
    assert best([{**row, "gain_standard_error": None}]) == (BETTER, False)


@pytest.mark.parametrize("stop_after", [0, 2, 4, 6, 9])
def test_an_interrupted_search_goes_on(tmp_path, stop_after):
    """No part is scored twice, and the end is that of a search in one go."""
    scores = Scores(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, scores, prune=False).run(2, [BETTER, WORSE])
    assert len(scores.asked) == stop_after
    again = Scores()
    found = search(tmp_path, again, prune=False)
    assert found.parts_left(2) == 12 - stop_after
    found.run(2, [BETTER, WORSE])
    assert len(scores.asked + again.asked) == len({*scores.asked, *again.asked}) == 12
    assert [row["gain"] for row in found.rows()] == [0.0, 10.0, -22.0]
    assert found.parts_left(2) == 0


@pytest.mark.parametrize("stop_after", [5, 9, 13, 18])
def test_what_optuna_proposed_before_a_kill_is_scored_after_it(tmp_path, stop_after):
    scores = Scores(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, scores, prune=False).run(5)
    begun = scores.asked[-1][0]
    again = Scores()
    found = search(tmp_path, again, prune=False)
    found.run(5)
    assert len(scores.asked + again.asked) == len({*scores.asked, *again.asked})
    row = next(r for r in found.rows() if r["architecture"] == json.loads(begun.to_json()))
    assert row["parts"] == [0, 1, 2, 3]
    assert len(found._ended()) == 5


@pytest.mark.parametrize("kill_at", [1, 3, 5, 8])
def test_what_is_told_is_kept(tmp_path, kill_at):
    """A kill right after a line of progress does not lose the score that it is about."""

    def report(line, scored):
        if scored == kill_at:
            raise KeyboardInterrupt

    scores, again = Scores(), Scores()
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, scores, prune=False, report=report).run(1, [BETTER])
    search(tmp_path, again, prune=False).run(1, [BETTER])
    assert len(scores.asked) == kill_at
    assert len(scores.asked + again.asked) == len({*scores.asked, *again.asked}) == 8


def test_a_longer_search_adds_to_what_is_there(tmp_path):
    search(tmp_path, Scores(), prune=False).run(2, [BETTER, WORSE])
    scores = Scores()
    found = search(tmp_path, scores, prune=False)
    found.run(8)
    assert not {BETTER, WORSE, Architecture()} & {architecture for architecture, _ in scores.asked}
    assert len(found._ended()) == 8
    assert found.rows()[1]["gain"] == 10.0
    assert all(
        Architecture.from_json(json.dumps(row["architecture"])).receptive_radius <= 2
        for row in found.rows()
    )


def test_what_optuna_proposes_is_set_by_the_seed(tmp_path):
    proposed = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        scores = Scores()
        search(tmp_path / name, scores, seed=5, prune=False).run(4)
        proposed.append(scores.asked)
    assert proposed[0] == proposed[1]


def test_those_below_the_median_are_given_up_and_recorded(tmp_path):
    scores = Scores()
    found = search(tmp_path, scores)
    good = [
        Architecture(num_components=1),
        Architecture(num_components=1, features=2),
        Architecture(orders=(0, 1), num_components=1),
        BETTER,
    ]
    found.run(5, [*good, Architecture(num_components=3)])
    last = next(row for row in found.rows() if row["state"] == "pruned")
    assert last["architecture"]["num_components"] == 3
    assert last["parts"] == [0, 1]
    assert last["reason"] == "gain -23.0 after 2 parts"
    assert "given up" in table([last])
    assert best(found.rows()) == (BETTER, True)


def test_failed_networks_are_recorded(tmp_path):
    found = search(tmp_path, Scores(fails=(WORSE,)), prune=False)
    found.run(2, [WORSE, BETTER])
    *_, last = found.rows()
    assert last["state"] == "fail" and "finite likelihood" in last["reason"]
    assert last["gain"] is None and last["parts"] == []
    assert "failed" in table([last])
    # a failure counts as tried
    again = Scores()
    search(tmp_path, again, prune=False).run(2, [WORSE, BETTER])
    assert again.asked == []


def test_a_score_that_is_not_finite_is_a_failure(tmp_path):
    def scores(architecture, number):
        value = np.nan if architecture == WORSE else -1.0
        return PartScore(value, 5)

    found = search(tmp_path, scores, prune=False)
    found.run(1, [WORSE])
    assert found.rows()[1]["state"] == "fail"


def test_other_settings_are_refused(tmp_path):
    search(tmp_path, Scores())
    with pytest.raises(ValueError, match=r"argument `settings`.*\['grid'\]"):
        search(tmp_path, Scores(), settings={"grid": 16})
    with pytest.raises(ValueError, match=r"argument `settings`.*\['parts'\]"):
        search(tmp_path, Scores(), parts=(0, 1))
    other = dataclasses.replace(SPACE, features=(1,))
    with pytest.raises(ValueError, match=r"argument `settings`.*\['space'\]"):
        ArchitectureSearch(tmp_path / "search.db", other, Scores(), (0, 1, 2, 3), {"grid": 8})


def test_confirmation_on_other_parts(tmp_path):
    found = search(tmp_path, Scores(), parts=(0, 1))
    found.run(1, [BETTER])
    gain, error = found.confirm(BETTER, [4, 5])
    assert (gain, error) == (10.0, 1.0)
    again = Scores()
    resumed = search(tmp_path, again, parts=(0, 1))
    assert resumed.confirm(BETTER, [4, 5]) == (10.0, 1.0) and again.asked == []
    kept = to_dict(resumed)["confirmation"]
    assert kept["gain"] == 10.0 and kept["on"] == [4, 5]
    assert kept["log_likelihood"] == [-4989.0, -5991.0]
    # the search's own parts are as they were
    assert found.rows()[1]["parts"] == [0, 1]
    with pytest.raises(ValueError, match="argument `parts`"):
        found.confirm(BETTER, [4])


def test_a_network_outside_the_space_is_refused(tmp_path):
    for outside in (
        Architecture(7),
        Architecture(5, num_layers=2),
        Architecture(features=3),
        Architecture(orders=(0, 1), invariants="product"),
        Architecture(parameterisation="mass"),
    ):
        with pytest.raises(ValueError, match="argument `architectures`"):
            SPACE.parameters(outside)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel_size", (4,)),
        ("kernel_size", ()),
        ("orders", ((1,),)),
        ("num_layers", (4,)),
        ("features", (0,)),
        ("invariants", ("sum",)),
        ("num_components", (7,)),
        ("heads", (("tapered_pareto", "mass"),)),
        ("softening", (0.0,)),
        ("max_radius", 0),
    ],
)
def test_bad_values_of_the_space_are_named(name, value):
    named = "parameterisation" if name == "heads" else name
    with pytest.raises(ValueError, match=f"argument `{named}`"):
        SearchSpace(**{name: value})


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"npe_tf\[search\]"):
        search(tmp_path, Scores())
