"""Measurements and report of ``experiments.bench``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import math
import multiprocessing
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.benchmarks.implementations import (
    CONTESTANTS,
    OPTIONAL,
    SHAPES,
    TOLERANCE,
    Disagreement,
    Shape,
    captured,
    disagreement,
    make_step,
    network,
    tensorcircuit_on_torch,
)
from experiments.benchmarks.options import Options
from plasticity.figures.style import COLORS
from plasticity.learning.learner import Learner
from plasticity.networks.mlp import mlp
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import Carry
from plasticity.quantum.readouts import LogOdds, PauliZ
from plasticity.results.provenance import git_commit
from plasticity.rl.processes import start_fork_server
from plasticity.runs.progress import progress_bar
from plasticity.runs.train import check_device
from plasticity.seeding import generator_for
from plasticity.tasks.images import Images
from plasticity.tasks.streams import PermutedPixels

# ---------------------------------------------------------------------------------------- timing
PRODUCT = 1024
"""Size of the square complex64 matrices whose product gives the rate."""
Timing = dict[str, Any]
"""``median_ms``, ``quartiles_ms`` and ``rounds`` of a step."""


def time_in_turn(
    steps: Mapping[str, Callable[[], Any]], seconds: float, device: str, label: str
) -> tuple[dict[str, Timing], float]:
    """Time steps turn by turn; return the timings and the rate of a complex matrix product.

    Slow ones get fewer turns, 3 to 200, spread evenly over the whole time. A step under 50 ms runs
    untimed for 10 ms, once to ten times, before it is timed: as in a training loop, it then finds
    its own data in the cache, not its rivals'.
    The rate, in floating point operations a second, is of a product that takes turns with them.
    """

    def once(step: Callable[[], Any]) -> float:
        wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        wait()
        began = time.perf_counter()
        step()
        wait()
        return time.perf_counter() - began

    size, generator = (2, PRODUCT, PRODUCT), generator_for(0, "bench product")
    a, b = torch.randn(size, generator=generator, dtype=torch.complex64).to(device)
    steps = {**steps, "product": functools.partial(torch.mm, a, b, out=torch.empty_like(a))}
    turns, untimed = [], dict.fromkeys(steps, 0)
    for name, step in steps.items():
        once(step)
        expected = min(once(step), once(step))
        if expected < 0.05:
            untimed[name] = min(10, math.ceil(0.01 / expected))
        rounds = int(seconds / (expected * (1 + untimed[name])))
        rounds = min(max(rounds, 3), 200)
        turns += [((k + 0.5) / rounds, name) for k in range(rounds)]
    turns.sort(key=lambda turn: turn[0])  # stable: equals stay in the steps' order
    times: dict[str, list[float]] = {name: [] for name in steps}
    spent = dict.fromkeys(steps, 0.0)
    for _, name in progress_bar(iterable=turns, desc=label, unit="turn"):
        if spent[name] > 2 * seconds and len(times[name]) >= 3:
            continue  # the machine has become slower since
        spent[name] += sum(once(steps[name]) for _ in range(untimed[name]))
        times[name].append(1e3 * once(steps[name]))
        spent[name] += times[name][-1] / 1e3
    timings = {}
    for name, milliseconds in times.items():
        first, median, third = np.quantile(milliseconds, [0.25, 0.5, 0.75]).tolist()
        rounds = len(milliseconds)
        timings[name] = {"median_ms": median, "quartiles_ms": [first, third], "rounds": rounds}
    return timings, 8 * PRODUCT**3 / (timings.pop("product")["median_ms"] / 1e3)


def limit_ms(shape: Shape, rate: float) -> float:
    """Return the milliseconds that the fewest floating point operations of a step take."""
    return 1e3 * shape.fewest_operations() / rate


def mlp_steps(device: str) -> dict[str, Callable[[], Tensor]]:
    """Return the classical arm's step as experiments.mnist takes it, and the same in bare torch."""
    generator = generator_for(0, "bench images")
    x = torch.randint(0, 256, (60_000, 784), generator=generator, dtype=torch.uint8).numpy()
    y = torch.randint(0, 10, (60_000,), generator=generator).numpy()
    images = Images("random", x, y, x[:1], y[:1], scale=1 / 255)
    stream = PermutedPixels(images, num_tasks=1, seed=0, num_inputs=784, device=device)
    train = stream[0].train
    order = torch.randperm(60_000, generator=generator).to(device).split(128)[:-1]
    batches, bare_batches = itertools.cycle(order), itertools.cycle(order)
    net, bare_net = (
        mlp((784, 16, 10), generator_for(0, "bench weights")).to(device) for _ in range(2)
    )
    learner = Learner(net, functools.partial(torch.optim.Adam, fused=True), cross_entropy)
    optimizer = torch.optim.Adam(bare_net.parameters(), fused=True)

    def bare() -> Tensor:
        x, y = train.batch(next(bare_batches))
        optimizer.zero_grad()
        loss = cross_entropy(bare_net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return {"ours": lambda: learner.update(*train.batch(next(batches))), "bare torch": bare}


# ---------------------------------------------------------------------------------------- memory
def peak_memory(shape: Shape, contestant: str, options: Options) -> float | None:
    """Return by how many MiB a step's peak exceeds the memory before it.

    On the CPU resident memory, in a fresh process after a step on two samples (which loads code);
    None where the system has no /proc. On CUDA what torch's allocator handed out.
    """
    if options.device == "cuda":
        step = make_step(shape, network(shape, contestant), options.device)
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        return None
    fresh = multiprocessing.get_context("forkserver")
    # These take seconds to import.
    fresh.set_forkserver_preload(["plasticity.quantum.layer", *OPTIONAL])
    start_fork_server()
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(_peak_resident, shape, contestant, options.threads).result()


def _peak_resident(shape: Shape, contestant: str, threads: int) -> float:
    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])  # kiB

    torch.set_num_threads(threads)
    with tensorcircuit_on_torch():
        net = network(shape, contestant)
        make_step(dataclasses.replace(shape, batch=2), net, "cpu")()
        step = make_step(shape, net, "cpu")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is: proc(5)
        before = peak()
        step()
        return (peak() - before) / 1024


# ----------------------------------------------------------------------------------- measurements
def bench_shape(name: str, contestants: Sequence[str], options: Options) -> list[dict[str, Any]]:
    """Check, time and weigh the contestants on a shape; return rows of the table."""
    shape, device = SHAPES[name], options.device
    steps = {c: make_step(shape, network(shape, c), device) for c in contestants}
    if device == "cuda" and (graph := captured(make_step(shape, network(shape), device))):
        steps["ours, CUDA graph"] = graph
    differences = disagreement(steps)
    timings, rate = time_in_turn(steps, options.seconds, device, name)
    rows = []
    for contestant, timing in timings.items():
        row = {"shape": name, "contestant": contestant, **timing}
        row["ratio_to_ours"] = row["median_ms"] / timings["ours"]["median_ms"]
        row["difference"] = differences[contestant]
        row["operations_per_second"] = rate
        if shape.trains:  # where weights stand still, no gates need be applied
            row["limit_ms"] = limit_ms(shape, rate)
            row["fraction_of_limit"] = row["limit_ms"] / row["median_ms"]
        if contestant in contestants:
            row["peak_mib"] = peak_memory(shape, contestant, options)
        rows.append(row)
    return rows


def bench_mlp(options: Options) -> list[dict[str, Any]]:
    """Check and time the classical arm's step beside bare torch."""
    steps = mlp_steps(options.device)
    ours, bare = (float(step()) for step in steps.values())
    if not math.isclose(ours, bare, rel_tol=TOLERANCE):
        raise Disagreement(f"mlp: losses of the first step are {ours} (ours) and {bare}")
    timings, _ = time_in_turn(steps, options.seconds, options.device, "mlp")
    rows = [{"shape": "mlp", "contestant": name, **timing} for name, timing in timings.items()]
    for row in rows:
        row["ratio_to_ours"] = row["median_ms"] / timings["ours"]["median_ms"]
    return rows


def sweep(options: Options) -> dict[str, Any]:
    """Time our step over qubits and over depth, and measure its memory at two depths."""
    cifar = SHAPES["cifar"]
    depths = {
        d: dataclasses.replace(cifar, ansatz=Brickwork(10, d)) for d in (1, 2, 4, 8, 16, 32, 64)
    }
    qubits = {n: Shape(Brickwork(n, 4), LogOdds(10), 128, features=2**n) for n in range(4, 17)}
    last = {n: dataclasses.replace(shape, readout=PauliZ(n - 1)) for n, shape in qubits.items()}
    families: list[tuple[str, str, Carry, dict[int, Shape]]] = [
        ("qubits", "log-odds of 10: rows", "rows", qubits),
        ("qubits", "Z of a qubit: states", "states", last),
        ("depth", "Z of a qubit: states", "states", depths),
    ]
    curves = []
    for axis, label, carry, shapes in families:
        steps = {
            str(size): make_step(shape, network(shape, carry=carry), options.device)
            for size, shape in shapes.items()
        }
        timings, rate = time_in_turn(steps, options.seconds / 3, options.device, f"{axis}, {carry}")
        limits = [limit_ms(shape, rate) for shape in shapes.values()]
        curve = {"axis": axis, "label": label, "sizes": list(shapes), "limits_ms": limits}
        curves.append(curve | {"timings": list(timings.values())})
    memory = {str(depth): peak_memory(depths[depth], "ours", options) for depth in (8, 64)}
    return {"curves": curves, "peak_mib_of_depth": memory}


def machine(options: Options) -> dict[str, Any]:
    """Return what the numbers were measured with."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    versions = {"python": platform.python_version()}
    for name in ("torch", "tensorcircuit-ng", "numpy", *OPTIONAL):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "processor": found[1] if found else platform.processor(),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": options.threads,
        "dtype": "complex64",
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
    }


def run(options: Options) -> dict[str, Any]:
    """Take all measurements."""
    check_device(options.device)
    torch.set_num_threads(options.threads)
    chosen = [c for c in CONTESTANTS if c == "ours" or c in options.contestants]
    missing = [c for c in chosen if c in OPTIONAL and importlib.util.find_spec(c) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)} (pip install -e '.[bench]')")
    rows = []
    with tensorcircuit_on_torch():
        for name in options.shapes:
            contestants = [c for c in chosen if c not in missing]
            rows += bench_mlp(options) if name == "mlp" else bench_shape(name, contestants, options)
    return {
        "machine": machine(options),
        "options": dataclasses.asdict(options) | {"results": str(options.results)},
        "left_out": missing,
        "fewest_operations": {n: s.fewest_operations() for n, s in SHAPES.items() if s.trains},
        "rows": rows,
        "sweep": sweep(options) if options.sweep else None,
    }


# ----------------------------------------------------------------------------------------- report
def table(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    about = report["machine"]
    lines = [
        f"{about['processor']}, {about['device']}, threads: {about['threads']}, complex64, "
        f"torch {about['versions']['torch']}, {about['date']}, commit {about['commit']}",
        "",
        "| shape | contestant | median ms | quartiles | rounds | / ours | peak MiB | of limit |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["rows"]:
        peak, fraction = row.get("peak_mib"), row.get("fraction_of_limit")
        first, third = map(_digits, row["quartiles_ms"])
        lines.append(
            f"| {row['shape']} | {row['contestant']} | {_digits(row['median_ms'])} "
            f"| {first} - {third} | {row['rounds']} | {_digits(row['ratio_to_ours'])} "
            f"| {'' if peak is None else f'{peak:.1f}'} "
            f"| {'' if fraction is None else f'{fraction:.1%}'} |"
        )
    lines.append("")
    if checked := [row for row in report["rows"] if "difference" in row]:
        rates = [row["operations_per_second"] / 1e9 for row in checked]
        lines += [
            "- of limit: the time of the fewest floating point operations of a step, over the "
            f"measured, at the {min(rates):.0f} to {max(rates):.0f} GFLOP/s of a {PRODUCT} x "
            f"{PRODUCT} complex64 matrix product timed in turn with that shape's steps",
            "- equal: outputs and gradients differ from ours by at most "
            f"{max(row['difference'] for row in checked):.0e} in norm ({TOLERANCE:.0e} allowed)",
            "- peak MiB: memory of a step above what there is before it, each in a fresh process",
        ]
    memory = report["sweep"]["peak_mib_of_depth"] if report["sweep"] else {}
    if all(memory.values()) and memory:
        few, many = memory["8"], memory["64"]
        lines.append(
            f"- memory of our step, CIFAR shape: {few:.1f} MiB at depth 8, {many:.1f} MiB at depth "
            f"64, {many / few:.2f} times as much"
        )
    if report["left_out"]:
        left_out = ", ".join(report["left_out"])
        lines.append(f"- left out, not installed: {left_out} (pip install -e '.[bench]')")
    return "\n".join(lines) + "\n"


def _digits(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def draw(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw milliseconds a step against qubits and depth, the limits dashed."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = dict(zip(("qubits", "depth"), figure.subplots(1, 2, sharey=True), strict=True))
    for curve in curves:
        axes, sizes, timings = panels[curve["axis"]], curve["sizes"], curve["timings"]
        color, marker = (COLORS[0], "o") if "rows" in curve["label"] else (COLORS[1], "s")
        low, high = np.transpose([timing["quartiles_ms"] for timing in timings])
        medians = [timing["median_ms"] for timing in timings]
        axes.fill_between(sizes, low, high, color=color, alpha=0.25, linewidth=0)
        axes.plot(sizes, medians, marker, ls="-", color=color, ms=5, label=curve["label"])
        axes.plot(sizes, curve["limits_ms"], "--", color=color, lw=1.2, label="its limit")
        axes.set_xticks(sizes)
    # A circuit's state doubles with each qubit: evenly spaced qubits are a logarithmic axis.
    panels["depth"].set_xscale("log", base=2)
    panels["depth"].xaxis.set_major_formatter("{x:.0f}")
    panels["qubits"].set_yscale("log")
    panels["qubits"].set_ylim(bottom=1e-2)
    panels["qubits"].set_ylabel("milliseconds, forward and backward")
    titles = {"qubits": "brickwork of depth 4", "depth": "brickwork of 10 qubits"}
    for axis, axes in panels.items():
        axes.set_title(f"{titles[axis]}, batch of 128", fontsize=11)
        axes.set_xlabel(axis)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper left")
    return figure


def save(report: Mapping[str, Any], folder: Path) -> Path:
    """Write JSON, Markdown and, after a sweep, the figure; return the JSON's path."""
    stem = f"bench-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    path = folder / f"{stem}.json"
    with open(path, "x") as file:  # never over another report
        json.dump(report, file, indent=2)
    (folder / f"{stem}.md").write_text(table(report))
    if report["sweep"]:
        draw(report["sweep"]["curves"]).savefig(folder / f"{stem}.png", dpi=150)
    return path
