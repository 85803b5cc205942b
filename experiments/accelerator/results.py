"""What `experiments.accelerator` has heard from the processes that do its stages, as records and as lines."""

import os
import re
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Results:
    """What has been heard so far."""

    made_by: dict[str, Any] = field(default_factory=dict)
    devices: int = 0
    device: dict[str, dict[str, float]] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # what became of each
    ended: str = "while it ran"

    def hear(self, said: dict[str, Any]) -> None:
        """Take in one line of a process of stages."""
        word, name = said["word"], said.get("stage", "")
        if word == "started":
            self.made_by, self.devices = said["made_by"], said["devices"]
        elif word == "begun":
            self.stages[name] = {"began": said["at"]}
        elif word == "found":
            self._found(said)
        elif word == "done":
            self.stages[name] = {"seconds": said["at"] - self.stages[name]["began"]}
        elif word == "skipped":
            self.stages[name] = {"left_undone": said["why"]}
        elif word == "too_large":
            self.stages[name] = {"did_not_fit": said["why"]}
        elif word == "failed":
            self.stages[name] = {"error": said["error"]}

    def _found(self, said: dict[str, Any]) -> None:
        kind, result = said["kind"], said["result"]
        where: dict[str, Any] = {name: said[name] for name in ("K", "n", "d", "target") if name in said}
        if kind == "device":
            for unit, rates in result.items():
                self.device[unit] = self.device.get(unit, {}) | rates
        elif kind in ("searched", "judged"):
            self.checks.append({"check": kind, **where, **result})
        else:
            self.rates.append({**where, **result})

    @property
    def running(self) -> str | None:
        """The stage that has begun and not ended."""
        return next((name for name, s in self.stages.items() if "began" in s), None)

    @property
    def good(self) -> bool:
        """Whether every check that was made holds, and no stage failed."""
        return all(c["holds"] for c in self.checks) and not any("error" in s for s in self.stages.values())


def facts(results: Results, command: str, seconds: float) -> dict[str, Any]:
    """Return what the JSON file holds beside where it comes from."""
    return {
        "command": command,
        "seconds": round(seconds, 1),
        "ended": results.ended,
        "devices": results.devices,
        "compilation_cached": "JAX_COMPILATION_CACHE_DIR" in os.environ,  # then first calls may be short
        "device_rates": results.device,
        "checks": results.checks,
        "rates": results.rates,
        "stages": results.stages,
    }


def name_of(results: Results) -> str:
    """Return accelerator_DEVICE, DEVICE as JAX calls it, in lower case."""
    device = results.made_by.get("device") or "none found"
    return "accelerator_" + re.sub("[^a-z0-9]+", "_", device.lower()).strip("_")


def table(results: Results) -> list[str]:
    """Return the checks, the rates (* as the package batches), and what went wrong, a line each."""
    lines = [f"{results.made_by.get('device', 'no device found')}: {results.ended}"]
    for c in results.checks:
        where = f"{c['check']:<9} K={c['K']:<3} {c['target']:<8}"
        kinds = ", ".join(f"{n} in {name}" for name, n in c["in"].items() if n)
        lines.append(
            f"{where} {c['differ']} of {c['rows']:,} rows differ{f' ({kinds})' if kinds else ''}, "
            f"{c['allowed']} allowed: {'holds' if c['holds'] else 'FAILS'}"
        )
    for r in results.rates:
        batch = f"{r['lanes']:>9,} lanes{' *' if r['own'] else '  '}"
        rates = f"{r['starts_per_s']:>10,.4g} starts/s, {r['starts_per_s_first']:>8,.4g} in the first call"
        lines.append(f"K={r['K']:<3} {r['target']:<8} spectra {r['spectra']:<7}{batch} {rates}")
    for unit, measured in results.device.items():
        short = "Gflop/s" if unit == "operations_per_s" else "GB/s"
        lines += [f"{what:<40} {value / 1e9:>10,.4g} {short}" for what, value in measured.items()]
    return lines + [f"{name}: {s['error']}" for name, s in results.stages.items() if "error" in s]
