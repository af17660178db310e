"""The benchmark harness: every case runs and is equal at a small size; what differs is not timed."""

import json

import pytest
import torch

from hfvision.bench import SUITES, Case, Goal, Pair, Report, Row, Setting, Unavailable, run
from hfvision.bench.compare import difference, gradient_difference
from hfvision.bench.peaks import count_gflop
from hfvision.bench.report import Peaks
from hfvision.errors import ConfigError, UnknownNameError
from tests.test_cli import hfvision

IN_PROCESS = [suite for suite in SUITES if suite != "load"]
LONG = ("compiled", "forward", "scaling", "training")  # twelve seconds and more
TINY = Setting(tiny=True, rounds=1, memory=False)


@pytest.fixture
def run_case(monkeypatch):
    """Runs one case that is not in a suite."""

    def one(case, setting=TINY):
        monkeypatch.setattr("hfvision.bench.suites.load_suite", lambda name: (case,))
        return run(["loss"], setting)

    return one


def doubled(value):
    return Pair(lambda: torch.tensor([value]), lambda: torch.tensor([1.0]))


@pytest.mark.parametrize(
    "suite", [pytest.param(one, marks=pytest.mark.slow if one in LONG else ()) for one in IN_PROCESS]
)
def test_every_case_runs_and_is_equal(suite, tmp_path):
    report = run([suite], TINY)
    assert report.sound, [(row.case, row.reason) for row in report.rows]
    assert [row.case for row in report.rows if row.status == "skipped"] == []
    assert all(row.ratio > 0 and row.difference <= row.tolerance for row in report.rows)
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    text = (tmp_path / "benchmark.md").read_text()
    assert [row.case for row in report.rows if f"| {row.case} |" not in text] == []


@pytest.mark.slow  # which times the imports of fresh processes, and is one itself
def test_the_command_prints_what_it_writes(tmp_path):
    done = hfvision("bench", "load", "--case", "import", "--tiny", "--rounds", 1, "--json", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "benchmark.json").read_text())
    assert "load/import: " in done.stderr


@pytest.mark.slow
def test_memory_is_that_of_one_side_beyond_what_it_held():
    (row,) = run(["postprocess"], Setting(tiny=True, rounds=1), "masks-*").rows
    assert row.status == "measured" and row.theirs_mb is not None and row.ours_mb is not None
    assert 0 <= row.ours_mb < 100 and 0 <= row.theirs_mb < 100


def test_answers_that_differ_are_not_timed_and_fail_the_run(run_case):
    report = run_case(Case("wrong", lambda setting: doubled(1.1)))
    (row,) = report.rows
    assert (row.status, row.ratio, report.sound) == ("unequal", None, False)
    assert "9.1e-02 of the largest value; at most 1.0e-05" in row.reason and row.reason in report.to_markdown()


def test_a_broken_case_is_named_and_one_that_cannot_run_here_is_no_failure(run_case):
    def broken(setting):
        raise RuntimeError("no such kernel")

    def missing(setting):
        raise Unavailable("needs a package")

    report = run_case(Case("broken", broken))
    assert (report.rows[0].status, report.rows[0].reason) == ("failed", "RuntimeError: no such kernel")
    assert not report.sound
    report = run_case(Case("missing", missing))
    assert (report.rows[0].status, report.rows[0].reason, report.sound) == ("skipped", "needs a package", True)


def test_the_ratio_is_the_median_of_neighbouring_calls(run_case, monkeypatch):
    theirs, ours = iter([1.0, 4.0, 6.0, 8.0]), iter([1.0, 2.0, 2.0, 8.0])  # the first of each is compared
    pair = Pair(lambda: next(theirs), lambda: next(ours), check=lambda: 0.0 * next(theirs) * next(ours), seconds=float)
    (row,) = run_case(Case("told", lambda setting: pair, counts_flops=False), Setting(rounds=3, memory=False)).rows
    assert (row.theirs_ms, row.ours_ms, row.ratio) == (6000.0, 2000.0, 2.0)
    assert (row.ratio_low, row.ratio_high, row.calls) == (1.5, 2.5, 1)


def test_differences_are_shares_of_the_largest_value():
    assert difference(torch.tensor([1.0, -4.0]), torch.tensor([1.5, -4.0])) == 0.125
    assert difference(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.25
    assert difference({"a": [1.0], "b": "x"}, {"a": [1.0], "b": "x"}) == 0
    for theirs, ours in [
        ({"a": 1}, {"b": 1}),
        ([1.0], [1.0, 2.0]),
        ("a", "b"),
        (torch.zeros(2), torch.zeros(3)),
        (torch.ones(1), torch.tensor([float("nan")])),
    ]:
        assert difference(theirs, ours) == float("inf")


def test_gradients_are_compared_by_name_and_those_of_zero_left_out():
    theirs = {"a.weight": torch.tensor([3.0, 4.0]), "key.bias": torch.tensor([1e-9])}
    ours = {"a.weight": torch.tensor([3.0, 4.5]), "key.bias": torch.tensor([-1e-9])}
    assert gradient_difference(theirs, ours, ("key.bias",)) == pytest.approx(0.1)
    assert gradient_difference(theirs, ours, ()) == 2
    assert gradient_difference(theirs, {"a.weight": ours["a.weight"]}, ()) == float("inf")


def test_arithmetic_of_attention_and_of_both_linear_kernels_is_counted():
    x, w = torch.randn(20, 30), torch.randn(40, 30)
    q = torch.randn(1, 2, 50, 8)
    assert count_gflop(lambda: torch.nn.functional.linear(x, w)) == 2 * 20 * 30 * 40 / 1e9
    assert count_gflop(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)) == 4 * 2 * 50 * 50 * 8 / 1e9
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        call = lambda: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")  # noqa: E731
        assert count_gflop(call) == 2 * 20 * 30 * 40 / 1e9


def test_goals_depend_on_the_kernel_of_linear_layers():
    row = Row("forward", "vit", 1e-5, "", Goal(2.0, plain=1.0, memory_share=0.25), theirs_ms=1.5, ours_ms=1.0)
    row.ratio, row.ratio_low, row.ratio_high, row.theirs_mb, row.ours_mb = 1.5, 1.4, 1.6, 100.0, 20.0
    described = {"date": "", "cpu": "", "flags": [], "cores": 2, "load": 0, "system": ""}
    fast, plain = (Report(described, Setting(), 1, Peaks(100.0, 240.0), name, [row]) for name in ("onednn", "torch"))
    assert fast.missed() == {"forward/vit": ["ratio 1.50 instead of 2"]} and plain.missed() == {}
    row.ours_mb = 30.0
    assert plain.missed() == {"forward/vit": ["0.30 of their memory instead of 0.25"]}


def test_growth_is_of_the_time_per_token():
    rows = [
        Row(
            "scaling",
            f"swin-{side}",
            1e-5,
            "",
            Goal(growth=1.3),
            family="swin",
            tokens=side,
            ours_ms=ms,
            theirs_ms=side,
        )
        for side, ms in ((10, 10.0), (100, 140.0))
    ]
    report = Report({}, Setting(), 1, Peaks(1.0, None), "torch", rows)
    assert [(name, theirs, round(ours, 3)) for name, _, theirs, ours in report.families()] == [("swin", 1.0, 1.4)]
    assert report.missed()["scaling/swin-100"] == ["time per token grows by 1.40 instead of 1.3"]


def test_wrong_settings_are_named_all_at_once():
    with pytest.raises(ConfigError) as raised:
        Setting(clock="sun", rounds=0)
    assert str(raised.value).splitlines()[1:] == [
        "    clock is wall or cpu; got 'sun'",
        "    rounds is at least 1; got 0",
    ]
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="needs a GPU"):
            Setting(device="cuda")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="no suite speed; there are forward, training"):
        run(["speed"], TINY)
    with pytest.raises(UnknownNameError, match="no case is called bert; there are loss/detr-loss"):
        run(["loss"], TINY, "bert")


def test_threads_are_given_back(run_case):
    before = torch.get_num_threads()
    run_case(Case("same", lambda setting: doubled(1.0), counts_flops=False), Setting(tiny=True, rounds=1, threads=3))
    assert torch.get_num_threads() == before


def test_a_file_that_is_no_report_is_refused(tmp_path):
    (tmp_path / "benchmark.json").write_text('{"rows": 3}')
    with pytest.raises(ConfigError, match="is not a report of hfvision bench"):
        Report.load(tmp_path)
