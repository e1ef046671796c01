import copy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `benchmarks` is not installed

from benchmarks import bench_run, bench_scaling, bench_step  # noqa: E402
from benchmarks.reference_master import ReferenceMASTER, reference_step  # noqa: E402
from qlib_ext.nets import load_official_master  # noqa: E402
from qlib_ext.workflow import load_workflow  # noqa: E402

N, T, F, D = 11, 6, 5, 16
TINY = "--stocks 6 --steps 3 --features 4 --d-model 8 --repeats 2 --days-per-step 2 --epoch-days 3 --matrix 64".split()


@pytest.mark.parametrize("d_gate", [0, 3])
@pytest.mark.parametrize("heads", [(4, 2), (1, 4)])
def test_the_reference_scores_as_ours(tmp_path, d_gate, heads):
    torch.manual_seed(d_gate)
    reference = ReferenceMASTER(F, D, *heads, dropout=0.5, d_gate=d_gate, beta=2.0)
    with torch.no_grad():  # biases and norms away from their neutral start
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    torch.save(reference.state_dict(), tmp_path / "reference.pkl")
    ours = load_official_master(tmp_path / "reference.pkl", beta=2.0, t_heads=heads[0], s_heads=heads[1]).double()
    reference = reference.double().eval()
    x = torch.randn(N, T, F, dtype=torch.float64)
    market = torch.randn(1, d_gate, dtype=torch.float64)
    window = torch.cat([x, market.expand(N, T, d_gate)], dim=-1)
    score = reference(window)
    assert score.shape == (N,) and score.std() > 0.05
    expected = ours(x.transpose(0, 1)[None], market=market if d_gate else None)[0]
    torch.testing.assert_close(score, expected, atol=1e-12, rtol=1e-10)


def test_a_reference_step_learns_and_drops_unknown_labels():
    torch.manual_seed(0)
    net = ReferenceMASTER(F, D, dropout=0.0).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    x = torch.randn(N, T, F)
    label = 0.02 * x[:, -1, 0]
    label[3], x[3] = torch.nan, torch.nan
    losses = [reference_step(net, optimiser, x, label) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_flops_by_hand():
    # 2 stocks, 3 steps, 5 features, D = 4. Linear layers: 6 tokens * 2 * 4 * (5 + 24 + 16) = 2160; attention: 4 * 4
    # a pair: 16 * 6 * (3 + 2) = 480; read-out of a stock: 2 * (2 * 16) + 2 * 2 * 3 * 4 + 2 * 4 = 120; backward: times 3
    assert bench_step.step_flops(6, 2, 3, 5, 4) == 3 * (2160 + 480 + 240)


def test_medians_and_the_turning_order():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = bench_step.median_times(runs, bench_step.parse(["--repeats", "2"]))
    assert "".join(calls) == "ab" + "ab" + "ba"
    assert set(times) == {"a", "b"} and all(value >= 0 for value in times.values())


@pytest.mark.parametrize("present", ["1.0", "0.8"])
def test_tables_of_tiny_sizes(tmp_path, capsys, present):
    path = tmp_path / "bench.md"
    bench_step.main([*TINY, "--what", "step", "epoch", "--no-memory", "--present", present, "--write", str(path)])
    text = path.read_text()
    assert text in capsys.readouterr().out
    assert torch.__version__ in text and "GFLOP/s" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    for first, width in ((0, 5), (5, 6)):
        here = rows[first : first + 5]
        assert [row[1] for row in here] == ["variant", "---:", "reference float32", "ours float32", "exact float32"]
        assert all(len(row) == width for row in here) and all(float(row[3]) > 0 for row in here[2:])


def test_memory_of_a_process_of_its_own():
    args = bench_step.parse([*TINY, "--calls", "1"])
    assert bench_step.peak_memory(args, None, 400, "reference float32") > 2**20  # (400, 400) matrices are kept


def test_the_whole_market_with_both_kinds_of_attention():
    args = bench_step.parse([*TINY, "--repeats", "1"])
    lines = bench_scaling.against_full(args, 30).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert (
        [row[0] for row in rows] == ["full", "induced"] and rows[0][2] == "1.0" and lines[0].startswith("| 30 stocks")
    )
    assert all(float(cell) >= 0 for row in rows for cell in row[1:])
    assert "Induced" in str(bench_step.our_trainer(bench_step.parse([*TINY, "--inter", "induced"]), 0.0, "float32").net)


def test_it_runs_as_a_module_without_qlib():
    code = "import sys; sys.modules['qlib'] = None; import benchmarks.bench_step"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- the run by phase


def test_a_phase_has_the_time_that_no_inner_phase_has():
    phases = bench_run.Phases()
    inner = phases.timed(lambda: time.sleep(0.05), "inner")
    outer = phases.timed(lambda: (time.sleep(0.02), inner(), inner()), "outer")
    outer()
    with pytest.raises(ZeroDivisionError):
        phases.timed(lambda: 1 / 0, "broken")()
    time.sleep(0.03)
    found = phases.result()
    seconds = {name: value[0] for name, value in found.items()}
    assert set(found) == {bench_run.OTHER, "outer", "inner", "broken"}
    assert 0.1 <= seconds["inner"] < 0.2 and 0.02 <= seconds["outer"] < 0.1 and 0.03 <= seconds[bench_run.OTHER] < 0.1
    assert all(2**24 < peak < 2**36 for _, peak in found.values())


def test_the_plain_network_scores_each_day_as_the_reference():
    torch.manual_seed(0)
    net = bench_run.PlainMASTER(F, D, 4, 2, 0.5, 0, 5.0, attention_dropout=0.0).eval()
    x, present = torch.randn(2, T, N, F), torch.rand(2, T, N) < 0.8
    present[:, -1, :3] = torch.tensor([True, False, True])
    x[~present] = torch.nan
    score = net(x, present)
    assert score.shape == (2, N) and not score[~present[:, -1]].any()
    window = torch.nan_to_num(x[1])[:, present[1, -1]].transpose(0, 1)
    torch.testing.assert_close(score[1, present[1, -1]], net.net(window))


def test_what_the_plain_run_changes():
    workflow = load_workflow(ROOT / "workflows" / "master_liq.yaml")
    ours = bench_run.changed(copy.deepcopy(workflow), "ours", 2)
    assert ours["task"]["model"]["kwargs"].pop("patience") == ours["task"]["model"]["kwargs"].pop("epochs") == 2
    del workflow["task"]["model"]["kwargs"]["patience"], workflow["task"]["model"]["kwargs"]["epochs"]
    assert ours == workflow
    plain = bench_run.changed(copy.deepcopy(workflow), "plain", 2)
    handler = plain["task"]["dataset"]["kwargs"]["handler"]
    assert (handler["class"], handler["module_path"]) == ("Alpha158", "qlib.contrib.data.handler")
    assert [p["class"] for p in handler["kwargs"]["infer_processors"]] == ["ProcessInf", "CSZScoreNorm", "Fillna"]
    assert plain["task"]["model"]["kwargs"]["precision"] == "float32" and plain["qlib_init"]["kernels"] == 2
    assert plain["task"]["record"] == workflow["task"]["record"]
    workflow["task"]["model"]["class"] = "MLPModel"
    with pytest.raises(ValueError, match="MLPModel on FastAlpha158: only MASTERModel on FastAlpha158"):
        bench_run.changed(workflow, "ours", 2)


def test_the_table_of_phases_by_hand():
    gib = 2**30
    runs = {"plain": {"factors": (30.0, gib), "training": (60.0, 3 * gib)}, "ours": {"training": (20.0, 2 * gib)}}
    lines = bench_run.phase_table(runs, 4).splitlines()
    assert lines[0] == "| phase | plain, s | plain, GiB | ours, s | ours, GiB | times faster |"
    assert lines[2:] == [
        "| factors | 30.0 | 1.00 | 0.0 | 0.00 | - |",
        "| training, 4 epochs | 60.0 | 3.00 | 20.0 | 2.00 | 3.0 |",
        "| in all | 90.0 | 3.00 | 20.0 | 2.00 | 4.5 |",
    ]
    assert len(bench_run.phase_table({"ours": runs["ours"]}, 4).splitlines()[0].split("|")) == 5
