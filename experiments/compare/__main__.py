"""The same small runs with this checkout and with another commit: rows that differ, and the ratio of rates.

A ruler for whoever restructures, not a test: `python -m experiments.compare --with COMMIT` compares what is
here, committed or not, with a temporary work tree of that commit. Both are driven by the command line and the
files it writes, which stay put where modules move. Floats differ beyond 1e-12 of 1 + |x|; all else exactly.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro

from experiments.compare.differences import TOLERANCE, Differences, Table, differences, said
from experiments.compare.two_trees import Ending, Tree, check, one_line, side_by_side, trees
from experiments.compare.workloads import FULL, SCALES, Rate, Work, certificates, read

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Config:
    """Compare this checkout with another commit, row by row, and time both in turns."""

    commit: Annotated[str, tyro.conf.arg(name="with", metavar="COMMIT")]
    """Any revision that git knows: HEAD to see what is not committed yet, HEAD~1, a branch, a hash."""
    scale: Literal["smoke", "default"] = "default"
    """smoke: a few runs and one turn, a minute and a half; default: about five minutes."""
    show: int = 5
    """Entries that differ shown of each run."""


class Compared(NamedTuple):
    """One run in both trees."""

    name: str
    tables: dict[str, Differences]
    errors: list[str]  # here, there; empty where it did not fail
    rows_here: Table | None  # of a sweep
    seconds: tuple[float, float]


def compared(work: Work, pair: tuple[Tree, Tree]) -> Compared:
    """Run one command in both trees at once, and compare what they wrote."""
    _progress(work.name)
    outs = [tree.work / work.name.replace(" ", "_") for tree in pair]
    commands = [
        (tree, ["-m", "ufm_jax", *work.words, *(["--out", str(out)] if work.writes else [])])
        for tree, out in zip(pair, outs, strict=True)
    ]
    ends = side_by_side(commands)
    (here, error_here), (there, error_there) = (_read(work, *parts) for parts in zip(outs, ends, strict=True))
    tables = {
        name: differences(here[name][0], there[name][0], here[name][1]) for name in here if name in there
    }
    errors = [error_here, error_there]
    if not any(errors):
        absent = [[name for name in b if name not in a] for a, b in ((here, there), (there, here))]
        errors = [", ".join(f"no {name}" for name in names) for names in absent]
    rows = here["rows"][0] if "rows" in here else None
    return Compared(work.name, tables, errors, rows, (ends[0].seconds, ends[1].seconds))


def _read(work: Work, out: Path, end: Ending) -> tuple[dict[str, tuple[Table, Sequence[str]]], str]:
    """Return the tables that a command wrote, and in one line why it failed or why they cannot be read."""
    try:
        return read(work, out, end.stdout), end.error
    except (ValueError, OSError, KeyError) as error:  # pyarrow's are ValueErrors, or KeyErrors
        return {}, end.error or f"what it wrote cannot be read: {one_line(str(error))}"


def all_compared(config: Config, pair: tuple[Tree, Tree]) -> Iterator[Compared]:
    """Compare every run of the scale, then certificates of points, some of them found by its sweeps."""
    scale, found = SCALES[config.scale], None
    for work in scale.works:
        result = compared(work, pair)
        found = result.rows_here if work.name == FULL else found
        yield result
    for work in certificates(pair[0].work, found, scale.certified):
        yield compared(work, pair)


def report(results: Sequence[Compared], show: int) -> str:
    """Return a line for each run, what differs in it, and once the columns that only one has."""
    width = max(len(result.name) for result in results)
    lines = [
        f"{'run':<{width}}    rows  differ  here s  there s  (first run: both at once, with compilation)"
    ]
    for r in results:
        rows, apart = sum(d.rows for d in r.tables.values()), sum(map(_apart, r.tables.values()))
        lines.append(f"{r.name:<{width}}  {rows:>6}  {apart:>6}  {r.seconds[0]:>6.1f}  {r.seconds[1]:>7.1f}")
        here, there = r.errors
        ends = [("both", here)] if here == there else [("here", here), ("there", there)]
        lines += [f"    {where}: {why}" for where, why in ends if why]
        lines += [f"    {name}: {line}" for name, d in r.tables.items() for line in said(d, show)]
    tables = [(name, found) for r in results for name, found in r.tables.items()]
    columns = {f"{name}: column {c} is only here": 0 for name, d in tables for c in d.columns_here}
    columns |= {f"{name}: column {c} is only there": 0 for name, d in tables for c in d.columns_there}
    apart = sum(_apart(found) > 0 for _, found in tables)
    ending = f"{apart} of {len(tables)} tables differ beyond {TOLERANCE:g}"
    counts = {
        "failed in one tree": sum(r.errors[0] != r.errors[1] for r in results),
        "failed in both alike": sum(r.errors[0] == r.errors[1] != "" for r in results),
    }
    endings = [ending, *(f"{count} runs {what}" for what, count in counts.items() if count)]
    return "\n".join([*lines, *columns, "; ".join(endings)])


def _apart(found: Differences) -> int:
    """Count the rows that differ or are missing in one."""
    return len({cell.key for cell in found.cells}) + len(found.only_here) + len(found.only_there)


class Timed(NamedTuple):
    """Seconds of the whole command, a turn each, with few and with many starts."""

    few: list[float]
    many: list[float]


def timed(rate: Rate, pair: tuple[Tree, Tree], turns: int) -> tuple[Timed, Timed] | str:
    """Time a sweep in both trees in turns, after a first run that compiles; or say why that failed."""
    times = (Timed([], []), Timed([], []))
    for starts in (rate.few, rate.many):
        _progress(f"{rate.name}, {starts} starts, compiling")
        for tree, end in zip(pair, _swept(rate, starts, pair), strict=True):
            if end.error:
                return f"{tree.name}: {end.error}"
    for turn in range(1, turns + 1):
        for tree, of_tree in zip(pair, times, strict=True):
            for starts, seconds in zip((rate.few, rate.many), of_tree, strict=True):
                _progress(f"{rate.name}, {starts} starts, {tree.name}, turn {turn}")
                (end,) = _swept(rate, starts, [tree])
                if end.error:
                    return f"{tree.name}: {end.error}"
                seconds.append(end.seconds)
    return times


def _swept(rate: Rate, starts: int, where: Sequence[Tree]) -> list[Ending]:
    """Run a sweep in a fresh folder of each tree, at once, and throw its rows away."""
    outs = [tree.work / "timed" for tree in where]
    words = ["-m", "ufm_jax", *rate.words, "--starts", str(starts), "--out"]
    ends = side_by_side([(tree, [*words, str(out)]) for tree, out in zip(where, outs, strict=True)])
    for out in outs:
        shutil.rmtree(out, ignore_errors=True)
    return ends


def rates(rate: Rate, times: Timed) -> list[float]:
    """Return starts a second beyond the command's fixed cost, a turn each; NaN where noise hides it."""
    pairs = zip(times.few, times.many, strict=True)
    return [(rate.many - rate.few) / (many - few) if many > few else np.nan for few, many in pairs]


def said_of_rates(here: Sequence[float], there: Sequence[float]) -> str:
    """Say the ratio of rates, its spread over the turns, and whether that is more than noise."""
    if not np.all(np.isfinite([*here, *there])):
        return "no ratio: the noise is larger than the time of the starts"
    ratios = [a / b for a, b in zip(here, there, strict=True)]
    text = f"here/there {median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f}): "
    if len(ratios) == 1:
        return text + "one turn says nothing of the noise"
    if min(ratios) > 1:
        return text + "faster here in every turn"
    if max(ratios) < 1:
        return text + "slower here in every turn"
    return text + "no difference beyond the noise"


def rate_report(rate: Rate, times: tuple[Timed, Timed], names: tuple[str, str]) -> str:
    """Return the lines of one rate."""
    lines = [f"{rate.name}: medians over turns: {len(times[0].few)}, warm"]
    for name, of_tree in zip(names, times, strict=True):
        few, many = median(of_tree.few), median(of_tree.many)
        lines.append(
            f"    {name:<12} {np.median(rates(rate, of_tree)):>10,.0f} starts/s;  whole command: "
            f"{few:.2f} s with {rate.few:,} starts, {many:.2f} s with {rate.many:,}"
        )
    return "\n".join([*lines, f"    {said_of_rates(*(rates(rate, t) for t in times))}"])


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(config: Config) -> None:
    """Compare, time, print."""
    scale = SCALES[config.scale]
    with trees(ROOT, config.commit) as pair:
        for tree in pair:
            check(tree)
        print(report(list(all_compared(config, pair)), config.show), flush=True)
        for rate in scale.rates:
            times = timed(rate, pair, scale.turns)
            names = (pair[0].name, pair[1].name)
            print(
                f"{rate.name}: {times}" if isinstance(times, str) else rate_report(rate, times, names),
                flush=True,
            )


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except ValueError as error:
        print(f"compare: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
