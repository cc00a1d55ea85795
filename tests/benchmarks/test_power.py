"""Power is read from a Jetson's files as they are laid out there, or it is said why it is not measured."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rar.benchmarks.power import Jetson, Power, Reading, find_meter
from rar.runtime.errors import RarError


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def ina3221(number: int, *channels: tuple[str, int, int]) -> dict[str, str]:
    """A sensor as Linux shows it: label, millivolts and milliamperes of three channels, and the sum of shunts."""
    folder = f"sys/class/hwmon/hwmon{number}"
    files = {f"{folder}/name": "ina3221", f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": "9"}
    for index, (label, millivolts, milliamperes) in enumerate(channels, 1):
        files |= {
            f"{folder}/in{index}_label": label,
            f"{folder}/in{index}_input": str(millivolts),
            f"{folder}/curr{index}_input": str(milliamperes),
            f"{folder}/in{index + 3}_input": "77",
        }
    return files


REST = {
    "sys/class/hwmon/hwmon0/name": "nvme",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000",
    "sys/class/devfreq/15480000.nvdec/cur_freq": "1000000000",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "60000",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "47500",
    "proc/meminfo": "MemTotal:       7802256 kB\nMemFree:         100000 kB\nMemAvailable:    5802256 kB",
}
NANO = ina3221(1, ("VDD_IN", 5000, 1800), ("VDD_CPU_GPU_CV", 4900, 700), ("VDD_SOC", 4900, 300))
AGX = {
    **ina3221(3, ("VDD_GPU_SOC", 19000, 200), ("VDD_CPU_CV", 19000, 100), ("VIN_SYS_5V0", 5000, 800)),
    **ina3221(4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 100), ("NC", 0, 0)),
}


def test_an_orin_nano_has_one_rail_for_all(tmp_path: Path) -> None:
    reading = Jetson(write(tmp_path, {**REST, **NANO})).read()
    assert reading == Reading(
        pytest.approx(9.0),
        918.0,
        47.5,
        2_000_000 * 1024,
        pytest.approx({"VDD_IN": 9.0, "VDD_CPU_GPU_CV": 3.43, "VDD_SOC": 1.47}),
    )


def test_an_agx_orin_s_power_is_the_sum_of_its_input_rails(tmp_path: Path) -> None:
    reading = Jetson(write(tmp_path, {**REST, **AGX})).read()
    assert reading.watts == pytest.approx(3.8 + 1.9 + 4.0)  # VDDQ is behind SYS_5V0
    assert set(reading.rails) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}


def test_an_ina238_gives_the_power_itself(tmp_path: Path) -> None:
    thor = {"sys/class/hwmon/hwmon2/name": "ina238", "sys/class/hwmon/hwmon2/power1_input": "31250000"}
    rails = ina3221(3, ("VDD_GPU", 12000, 500), ("VDD_CPU_SOC_MSS", 12000, 400), ("VIN_SYS_5V0", 5000, 800))
    reading = Jetson(write(tmp_path, {**thor, **rails})).read()
    assert reading.watts == pytest.approx(31.25)
    assert (reading.clock_mhz, reading.celsius, reading.memory_bytes) == (None, None, None)


def test_a_sensor_that_does_not_answer_gives_no_number(tmp_path: Path) -> None:
    meter = Jetson(write(tmp_path, {**REST, **AGX}))
    for text in ("", "not a number"):
        (tmp_path / "sys/class/hwmon/hwmon3/curr1_input").write_text(text)
        assert meter.read().watts is None
    (tmp_path / "sys/class/hwmon/hwmon3/curr1_input").unlink()
    power = Power(meter, interval=0.001)
    with power:
        time.sleep(0.01)
    found = power.result(1)
    assert "watts" not in found
    assert "joules" not in found
    assert "VDD_GPU_SOC" not in found["rails_watts"]
    assert found["peak_memory_bytes"] == 2_000_000 * 1024


def test_rails_that_are_not_known_are_not_added_up(tmp_path: Path) -> None:
    with pytest.raises(RarError, match="rails A, B are not known to add up"):
        Jetson(write(tmp_path, ina3221(1, ("A", 1, 1), ("NC", 1, 1), ("B", 1, 1))))


def test_joules_are_watts_times_seconds_over_all_contexts(tmp_path: Path) -> None:
    power = Power(Jetson(write(tmp_path, {**REST, **NANO})), interval=0.002)
    for _ in range(2):
        with power:
            time.sleep(0.02)
    found = power.result(pictures=4)
    assert found["meter"] == "sysfs"
    assert found["samples"] >= 4
    assert found["seconds"] > 0
    assert found["joules"] == pytest.approx(9.0 * found["seconds"])
    assert found["joules_per_picture"] == pytest.approx(found["joules"] / 4)
    assert found["watts"]["median"] == pytest.approx(9.0)
    assert found["rails_watts"]["VDD_SOC"] == pytest.approx(1.47)


def test_a_machine_without_sensors_says_so(tmp_path: Path) -> None:
    try:
        meter = find_meter(tmp_path)
    except RarError as error:
        assert "no power is measured: no INA3221 or INA238" in str(error)  # noqa: PT017
        assert "NVML does not work" in str(error) or "nvidia-ml-py is not installed" in str(error)  # noqa: PT017
    else:
        assert meter.name == "nvml"
        assert meter.read().watts is None or meter.read().watts > 0
