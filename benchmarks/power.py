"""Power, clock, temperature and memory of a device while something runs on it.

From NVML on PCI cards, and from a Jetson's own sensors (INA3221, INA238) in sysfs. Both measure the whole device, idle
power and other processes included. Where there is neither, the result says so and holds no number.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from rar.runtime.errors import RarError

from . import record

_INTERVAL = 0.05  # seconds
# A Jetson's rail that carries all the others; or those that together do (Jetson Linux Developer Guide, AGX Orin).
_WHOLE = ("VDD_IN", "VIN", "POM_5V_IN")
_PARTS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
_GPU_NAMES = ("gpu", "ga10b", "gv11b", "gb10b")


@dataclass(frozen=True)
class Reading:
    """A meter's reading at one moment; None for values that it cannot measure.

    Attributes:
        watts: Power of the whole device.
        clock_mhz: The GPU's clock.
        celsius: The GPU's temperature.
        memory_bytes: In use on the device, by all processes; on a Jetson that is the host's memory.
        rails: Watts of each rail.
    """

    watts: float | None = None
    clock_mhz: float | None = None
    celsius: float | None = None
    memory_bytes: int | None = None
    rails: dict[str, float] = field(default_factory=dict)


class Meter(Protocol):
    """A device's sensors.

    Attributes:
        name: Where the numbers come from.
    """

    name: str

    def read(self) -> Reading:
        """All sensors now."""
        ...


def find_meter(root: Path = Path("/")) -> Meter:
    """The meter of this machine: a Jetson's sensors, else NVML.

    Args:
        root: Where `sys` and `proc` lie.

    Raises:
        RarError: There is none; the message says why not.
    """
    try:
        return Jetson(root)
    except RarError as no_jetson:
        try:
            return Nvml()
        except RarError as no_nvml:
            raise RarError(f"no power is measured: {no_jetson}; {no_nvml}") from no_nvml


def try_meter() -> tuple[Meter | None, str]:
    """What measures power here, if anything does, and what a report says of it."""
    try:
        meter = find_meter()
    except RarError as error:
        return None, str(error)
    return meter, meter.name


class Jetson:
    """A Jetson's sensors in sysfs.

    Raises:
        RarError: This is no Jetson, or one whose rails are not known here.
    """

    name = "sysfs"

    def __init__(self, root: Path = Path("/")) -> None:
        self._rails = _rails(root / "sys/class/hwmon")
        if not self._rails:
            raise RarError("no INA3221 or INA238 in /sys/class/hwmon (this is no Jetson)")
        whole = [name for name in _WHOLE if name in self._rails]
        self._summed = whole[:1] or [name for name in _PARTS if name in self._rails]
        if not whole and len(self._summed) < len(_PARTS):
            raise RarError(f"rails {', '.join(self._rails)} are not known to add up to a Jetson's power")
        self._clocks = [
            path / "cur_freq"
            for path in sorted((root / "sys/class/devfreq").glob("*"))
            if any(name in path.name for name in _GPU_NAMES)
        ]
        self._zones = [
            path / "temp"
            for path in sorted((root / "sys/class/thermal").glob("thermal_zone*"))
            if "gpu" in _text(path / "type").lower()
        ]
        self._memory = root / "proc/meminfo"

    def read(self) -> Reading:
        """See `Meter`."""
        rails = {name: watts for name, files in self._rails.items() if (watts := _watts(files)) is not None}
        summed = [rails[name] for name in self._summed if name in rails]
        clocks = [value / 1e6 for path in self._clocks if (value := _number(path)) is not None]
        zones = [value / 1e3 for path in self._zones if (value := _number(path)) is not None]
        return Reading(
            sum(summed) if len(summed) == len(self._summed) else None,
            max(clocks, default=None),
            max(zones, default=None),
            _used(self._memory),
            rails,
        )


class Nvml:
    """NVML, of the GPU that CUDA would take.

    Raises:
        RarError: `nvidia-ml-py` is not installed, or there is no driver.
    """

    name = "nvml"

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise RarError(f"nvidia-ml-py is not installed ({error})") from error
        self._nvml: Any = pynvml
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        try:
            pynvml.nvmlInit()
            self._device = (
                pynvml.nvmlDeviceGetHandleByIndex(int(visible))
                if visible.isdecimal()
                else pynvml.nvmlDeviceGetHandleByUUID(visible)
            )
        except pynvml.NVMLError as error:
            raise RarError(f"NVML does not work ({error})") from error

    def read(self) -> Reading:
        """See `Meter`."""
        nvml = self._nvml
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo)
        return Reading(
            None if milliwatts is None else milliwatts / 1e3,
            self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            None if memory is None else int(memory.used),
        )

    def _ask(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(self._device, *arguments)
        except self._nvml.NVMLError:  # not on this GPU
            return None


class Power:
    """Samples a meter on a thread of its own while its context lasts; contexts add up.

    Example:
        >>> power = Power(find_meter())
        >>> with power:
        ...     recognizer.recognize(pictures)
        >>> power.result(len(pictures))["joules_per_picture"]
    """

    def __init__(self, meter: Meter, interval: float = _INTERVAL) -> None:
        self._meter, self._interval = meter, interval
        self._readings: list[Reading] = []
        self._seconds = self._joules = 0.0
        self._measured = True
        self._stop = Event()
        self._thread: Thread | None = None

    def __enter__(self) -> Power:
        self._stop.clear()
        self._thread = Thread(target=self._sample, name="rar-power", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def result(self, pictures: int) -> dict[str, Any]:
        """What was measured, for a report.

        Args:
            pictures: How many went through while it measured.

        Returns:
            Seconds and samples; the spread of watts, clock and temperature; joules in all and a picture; each rail's
            mean watts; peak memory. What the meter cannot say is absent.
        """
        figures: dict[str, Any] = {"meter": self._meter.name, "seconds": self._seconds, "samples": len(self._readings)}
        for name in ("watts", "clock_mhz", "celsius"):
            values = [value for reading in self._readings if (value := getattr(reading, name)) is not None]
            if values:
                figures[name] = record.spread(values)
        if "watts" in figures and self._measured:
            figures.update(joules=self._joules, joules_per_picture=self._joules / pictures)
        memory = [reading.memory_bytes for reading in self._readings if reading.memory_bytes is not None]
        if memory:
            figures["peak_memory_bytes"] = max(memory)
        rails = sorted({name for reading in self._readings for name in reading.rails})
        if rails:
            figures["rails_watts"] = {
                name: float(np.mean([reading.rails[name] for reading in self._readings if name in reading.rails]))
                for name in rails
            }
        return figures

    def _sample(self) -> None:
        before, last = self._meter.read(), monotonic()
        self._readings.append(before)
        while True:
            stopped = self._stop.wait(self._interval)
            now, reading = monotonic(), self._meter.read()
            if before.watts is None or reading.watts is None:
                self._measured = False  # a gap: the energy is not known
            else:
                self._joules += (before.watts + reading.watts) / 2 * (now - last)
            self._seconds += now - last
            self._readings.append(reading)
            before, last = reading, now
            if stopped:
                return


def _rails(hwmon: Path) -> dict[str, tuple[Path, ...]]:
    """Rail -> its files: microwatts, or millivolts and milliamperes."""
    rails: dict[str, tuple[Path, ...]] = {}
    for sensor in sorted(hwmon.glob("hwmon*")):
        kind = _text(sensor / "name")
        if kind == "ina238":
            rails[_text(sensor / "label") or "VIN"] = (sensor / "power1_input",)
        elif kind == "ina3221":
            for channel in (1, 2, 3):
                label = _text(sensor / f"in{channel}_label")
                if label and label != "NC":  # not connected
                    rails[label] = (sensor / f"in{channel}_input", sensor / f"curr{channel}_input")
    return rails


def _watts(files: tuple[Path, ...]) -> float | None:
    values = [_number(path) for path in files]
    if any(value is None for value in values):
        return None
    return float(np.prod([value for value in values if value is not None])) / 1e6


def _used(meminfo: Path) -> int | None:
    fields = dict(line.split(":", 1) for line in _text(meminfo).splitlines() if ":" in line)
    try:
        total, available = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (KeyError, IndexError, ValueError):
        return None
    return (total - available) * 1024


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    """A sensor's file; empty where it is absent, or the sensor does not answer now."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
