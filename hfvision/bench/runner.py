"""Runs cases: equal first, then timed in turns, then memory in child processes."""

import fnmatch
import gc
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hfvision.bench.case import Case, Pair, Setting, Unavailable
from hfvision.bench.report import Report, Row
from hfvision.errors import UnknownNameError

ROUND_SECONDS, MOST_CALLS = 0.05, 50  # short calls are repeated within a round, so that a clock can tell them apart


def run(
    suites: Sequence[str] = (),
    setting: Setting | None = None,
    pattern: str = "*",
    on_row: Callable[[Row], None] | None = None,
) -> Report:
    """Every case of the suites (none given: all) whose name fits the shell pattern.

    A case whose answers differ is "unequal" and not timed; one that raises is "failed", with the reason, and the run
    goes on. `on_row` hears of each row when it is done. Raises UnknownNameError for a suite or pattern without cases.
    """
    from hfvision.bench.suites import SUITES, load_suite

    setting = setting or Setting()
    if unknown := [name for name in suites if name not in SUITES]:
        raise UnknownNameError(f"there is no suite {', '.join(unknown)}; there are {', '.join(SUITES)}.")
    chosen = [
        (name, case)
        for name in suites or SUITES
        for case in load_suite(name)
        if fnmatch.fnmatch(case.name, pattern) or fnmatch.fnmatch(f"{name}/{case.name}", pattern)
    ]
    if not chosen:
        among = ", ".join(f"{name}/{case.name}" for name in suites or SUITES for case in load_suite(name))
        raise UnknownNameError(f"no case is called {pattern}; there are {among}.")
    return _run(chosen, setting, on_row or (lambda row: None))


def _run(chosen: list[tuple[str, Case]], setting: Setting, on_row: Callable[[Row], None]) -> Report:
    from hfvision.bench.clock import default_threads, make_clock
    from hfvision.bench.machine import describe_machine
    from hfvision.bench.peaks import measure_peaks
    from hfvision.layers.linear import linear_backend

    clock = make_clock(setting)
    threads = default_threads(setting)
    with _threads(threads):
        peaks = measure_peaks(setting, clock)
        backend = linear_backend()
        report = Report(describe_machine(setting.device), setting, threads, peaks, backend)
        for suite, case in chosen:
            row = _row(suite, case, setting, threads)
            report.rows.append(row)
            on_row(row)
            gc.collect()
    return report


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(suite: str, case: Case, setting: Setting, threads: int) -> Row:
    import torch

    row = Row(
        suite=suite,
        case=case.name,
        tolerance=case.tolerance_in(setting),
        unit=case.unit,
        family=case.family,
        tokens=case.tokens,
        goal=case.reachable(setting),
    )
    try:
        if setting.peer not in case.peers:
            raise Unavailable(f"it is compared with {' or '.join(case.peers)}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _fill(row, case, setting, threads)
    except Unavailable as reason:
        row.status, row.reason = "skipped", str(reason)
    except Exception as error:  # one broken case must not cost the others
        row.status, row.reason = "failed", f"{type(error).__name__}: {error}"
    return row


def _fill(row: Row, case: Case, setting: Setting, threads: int) -> None:
    from hfvision.bench.clock import make_clock
    from hfvision.bench.compare import difference
    from hfvision.bench.memory import can_measure, measure_in_child
    from hfvision.bench.peaks import count_gflop, exact_products

    pair = case.build(setting)
    with exact_products():
        row.difference = pair.check() if pair.check else difference(pair.theirs(), pair.ours())
    if not row.difference <= row.tolerance:
        row.status = "unequal"
        row.reason = f"they differ by {row.difference:.1e} {case.unit}; at most {row.tolerance:.1e} is rounding"
        return
    if case.counts_flops:
        row.theirs_gflop, row.ours_gflop = count_gflop(pair.theirs), count_gflop(pair.ours)
    _time(row, pair, make_clock(setting), setting)
    del pair
    gc.collect()
    if setting.memory and case.measures_memory and can_measure(setting):
        row.theirs_mb = measure_in_child(row.suite, case, "theirs", setting, threads)
        row.ours_mb = measure_in_child(row.suite, case, "ours", setting, threads)


def _time(row: Row, pair: Pair, clock: Callable[..., tuple[float, object]], setting: Setting) -> None:
    """Rounds of theirs, then ours; in each, both are called as often."""

    def seconds(call: Callable[[], object], times: int) -> float:
        if pair.seconds is not None:
            return sum(pair.seconds(call()) for _ in range(times)) / times

        def repeated() -> None:
            for _ in range(times):
                call()

        return clock(repeated)[0] / times

    calls = 1
    if not setting.tiny and pair.seconds is None:
        first = min(seconds(pair.theirs, 1), seconds(pair.ours, 1))
        calls = max(1, min(MOST_CALLS, math.ceil(ROUND_SECONDS / max(first, 1e-6))))
    rounds = [(seconds(pair.theirs, calls), seconds(pair.ours, calls)) for _ in range(setting.rounds)]
    ratios = sorted(theirs / ours for theirs, ours in rounds)
    row.theirs_ms = 1e3 * statistics.median(theirs for theirs, _ in rounds)
    row.ours_ms = 1e3 * statistics.median(ours for _, ours in rounds)
    row.ratio = statistics.median(ratios)
    row.ratio_low, row.ratio_high = _quartiles(ratios)
    row.rounds, row.calls = setting.rounds, calls


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
