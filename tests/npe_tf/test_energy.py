"""The cost of a run: times of processes and their children, counters of energy."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest

from npe_tf.energy import COST_COLUMNS, WATTS_PER_CORE, Cost, Meter

BUSY = "import time\nwhile time.process_time() < 0.4: pass"


def counter(folder, name, microjoules, span=1_000_000_000):
    package = folder / name
    package.mkdir(exist_ok=True)
    (package / "energy_uj").write_text(f"{microjoules}\n")
    (package / "max_energy_range_uj").write_text(f"{span}\n")


def test_processor_time_of_the_process_and_of_its_children(tmp_path):
    meter = Meter(tmp_path)
    stop = time.process_time() + 0.2
    while time.process_time() < stop:
        pass
    own = meter.lap()
    assert tuple(own) == COST_COLUMNS
    # the system counts in hundredths
    assert own["cpu_seconds"] >= 0.18
    assert own["wall_seconds"] >= 0.19
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert meter.lap()["cpu_seconds"] >= 0.38
    time.sleep(0.2)
    asleep = meter.lap()
    assert asleep["wall_seconds"] >= 0.2
    assert asleep["cpu_seconds"] < 0.15


def test_laps_add_up(tmp_path):
    began = time.monotonic()
    meter = Meter(tmp_path)
    laps = []
    for _ in range(3):
        time.sleep(0.01)
        laps.append(meter.lap()["wall_seconds"])
    assert all(lap >= 0.01 for lap in laps)
    assert sum(laps) <= time.monotonic() - began


def test_energy_of_all_packages_and_nothing_twice(tmp_path):
    counter(tmp_path, "intel-rapl:0", 5_000_000)
    counter(tmp_path, "intel-rapl:1", 100_000_000)
    counter(tmp_path, "intel-rapl:0:0", 0)
    counter(tmp_path, "intel-rapl-mmio:0", 0)
    meter = Meter(tmp_path)
    counter(tmp_path, "intel-rapl:0", 8_000_000)
    counter(tmp_path, "intel-rapl:1", 104_500_000)
    counter(tmp_path, "intel-rapl:0:0", 3_000_000)
    counter(tmp_path, "intel-rapl-mmio:0", 3_000_000)
    assert meter.lap()["energy_joules"] == pytest.approx(7.5)
    assert meter.lap()["energy_joules"] == 0.0


def test_a_counter_that_starts_again(tmp_path):
    counter(tmp_path, "intel-rapl:0", 999_000_000)
    meter = Meter(tmp_path)
    counter(tmp_path, "intel-rapl:0", 2_000_000)
    assert meter.lap()["energy_joules"] == pytest.approx(3.0)


def test_without_counters_energy_is_not_known(tmp_path):
    assert math.isnan(Meter(tmp_path / "nowhere").lap()["energy_joules"])
    counter(tmp_path, "intel-rapl:0", 1)
    counter(tmp_path, "intel-rapl:1", 1)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    # one of two processors is not all
    assert math.isnan(Meter(tmp_path).lap()["energy_joules"])


def test_estimate_and_measurement():
    cost = Cost(wall_seconds=1800.0, cpu_seconds=3600.0)
    assert cost.core_hours == 1.0
    assert cost.kilowatt_hours() == pytest.approx(WATTS_PER_CORE / 1000.0)
    assert cost.kilowatt_hours(20.0) == pytest.approx(0.02)
    assert cost.line(20.0) == (
        "this run: 1 core-hours in 0.5 hours, about 0.02 kWh at 20 W per core"
    )
    measured = Cost(1800.0, 3600.0, 7.2e5)
    assert measured.kilowatt_hours(20.0) == pytest.approx(0.2)
    assert measured.line() == "this run: 1 core-hours in 0.5 hours, 0.2 kWh measured"


def test_sum_over_sweeps():
    assert Cost.of([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]) == Cost(3.0, 7.0, 11.0)
    partly = Cost.of(np.ones(2), np.ones(2), [5.0, math.nan])
    assert math.isnan(partly.energy_joules)
    assert partly.kilowatt_hours(3.6e6) == pytest.approx(2.0)


@pytest.mark.parametrize("watts", [0.0, -1.0, math.nan, math.inf])
def test_watts_are_checked(watts):
    with pytest.raises(ValueError, match="`watts_per_core`.*positive"):
        Cost(1.0, 1.0).kilowatt_hours(watts)
