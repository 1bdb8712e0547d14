"""How far each phase of a training step is from the machine's limit, and where memory goes.

    python benchmarks/limit.py            # MiniLM, 32 examples of 32 tokens, 6 steps
    python benchmarks/limit.py --full     # 15 steps, more often
    python benchmarks/limit.py --quick    # a smoke test

A step of full fine-tuning is taken apart: embedding, attention and feed-forward part of one
block, head, optimizer. Each phase is timed forward and backward by itself. Its limit is the
measured speed of its own matrix products, at the same shapes, with nothing in between
(for the optimizer: the time to read and write the same number of bytes). The whole step is
measured as well, with and without dropout, so that what the phases leave over is seen.

Memory: parameters, gradients, optimizer state and the tensors that autograd saves are counted;
their sum is compared with the peak of the process above where it stood before.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import turns
from sftkit.files import write_json

GOALS = {"with_dropout": 0.75, "without_dropout": 0.85, "memory": 1.3}
CONTESTANTS = {"ours": "step with dropout 0.1", "ours-no-dropout": "step without dropout"}


def timed(work: Callable[[], Any], repetitions: int) -> float:
    """Seconds of the median repetition, after one to warm up."""
    work()
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One kind of step: the whole, its phases, its memory."""
    import numpy as np
    import torch

    from benchmarks.flops import Sizes, machine_limit, step_flops
    from sftkit import device, losses, models
    from sftkit.batches import Batches, Examples, Ragged
    from sftkit.fit import fit

    dropout = 0.0 if job["contestant"].endswith("no-dropout") else None
    names = ["a", "b", "c"]
    model, _ = models.load("minilm", names, head="first", dropout=dropout, skip_unread=False)
    b, t, steps = job["batch_size"], job["tokens"], job["steps"]
    generator = np.random.default_rng(0)
    ids = Ragged(generator.integers(1000, 20_000, b * t * steps).astype(np.int32),
                 np.full(b * steps, t))  # fmt: skip
    labels = generator.integers(0, 3, b * steps)
    rows = Examples({"input_ids": ids, "labels": labels, "row": np.arange(b * steps)})
    before = device.peak_memory_mb()
    options: dict[str, Any] = {"precision": "fp32", "warmup": 0.0, "lr": 1e-5, "epochs": 1}
    state = fit(model, Batches(rows, b), losses.classification(), **options)
    after = device.peak_memory_mb()
    step = statistics.median(row["seconds"] for row in state.history[1:])
    sizes = Sizes.of(model.config)
    flops = step_flops(sizes, b, t)
    limit = machine_limit(sizes, [(b, t)], job["probe"])
    phases = _phases(model, b, t, job)
    model.train()
    saved = _saved_bytes(model, rows.batch(range(b)))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    needed = (weights * 4 + saved) / 1e6  # weights, gradients, two moments; activations
    # The weights are there before training; everything else comes on top.
    return {
        "step_seconds": step,
        "achieved_gflops": flops / step / 1e9,
        "limit_gflops": limit,
        "limit_share": flops / step / 1e9 / limit,
        "phases": phases,
        "phases_seconds": sum(p["seconds"] * p["times"] for p in phases.values()),
        "memory": {
            "weights_mb": weights / 1e6, "gradients_mb": weights / 1e6,
            "optimizer_mb": 2 * weights / 1e6, "saved_for_backward_mb": saved / 1e6,
            "needed_mb": needed, "peak_above_start_mb": after - before + weights / 1e6,
            "ratio": (after - before + weights / 1e6) / needed,
        },
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _phases(model: Any, b: int, t: int, job: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Each phase by itself: seconds forward and backward, and of its products alone."""
    import torch

    from sftkit.models.dropout import CheapDropout
    from sftkit.optim import make_optimizer, parameter_groups

    model.train()
    config, bert = model.config, model.bert
    d, f, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    ids = torch.randint(1000, 20_000, (b, t))
    block = bert.encoder.layer[0]
    mask = torch.zeros(b, 1, 1, t)

    def there_and_back(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        x = torch.randn(b, t, d, requires_grad=True)
        slope = torch.randn(b, t, d)

        def work() -> None:
            with CheapDropout():
                out = forward(x)
            out.backward(slope if out.shape == slope.shape else torch.ones_like(out))

        return work

    def attention(x: torch.Tensor) -> torch.Tensor:
        out = block.attention(x, mask)
        return out[0] if isinstance(out, tuple) else out

    def feed_forward(x: torch.Tensor) -> torch.Tensor:
        return block.output(block.intermediate(x), x)

    def head(x: torch.Tensor) -> torch.Tensor:
        return model.classifier(bert.pooler(x))

    n, blocks, r = b * t, config.num_hidden_layers, job["repetitions"]
    products = {
        "attention": [(1, n, d, d, 8), (1, d, n, d, 4), (b * heads, t, d // heads, t, 2),
                      (b * heads, t, t, d // heads, 4)],
        "feed-forward": [(1, n, d, f, 2), (1, n, f, d, 2), (1, f, n, d, 1), (1, d, n, f, 1)],
        "head": [(1, b, d, d, 2), (1, d, b, d, 1)],
    }  # fmt: skip
    work = {
        "embedding": (there_and_back(lambda x: bert.embeddings(ids) + 0 * x), 1),
        "attention": (there_and_back(attention), blocks),
        "feed-forward": (there_and_back(feed_forward), blocks),
        "head": (there_and_back(head), 1),
    }
    found: dict[str, dict[str, float]] = {}
    for name, (run, times) in work.items():
        seconds = timed(run, r)
        model.zero_grad(set_to_none=False)
        floor = sum(
            k * _product_seconds(*shape, repetitions=r) for *shape, k in products.get(name, [])
        )
        found[name] = {"seconds": seconds, "times": times, "limit_seconds": floor}
    optimizer = make_optimizer("adamw", parameter_groups(model, 0.01, 1.0), 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    numbers = sum(p.numel() for p in model.parameters())
    # AdamW reads weight, gradient and two moments, and writes three of them.
    a, c = torch.ones(numbers), torch.ones(numbers)
    # A sum in place moves three; a copy would do more than it says: what it overwrites is read.
    in_place = timed(lambda: c.add_(a), r)
    found["optimizer"] = {
        "seconds": timed(optimizer.step, r), "times": 1, "limit_seconds": in_place * 7 / 3,
    }  # fmt: skip
    for entry in found.values():
        entry["limit_share"] = entry["limit_seconds"] / entry["seconds"]
    return found


def _product_seconds(batch: int, m: int, k: int, n: int, repetitions: int) -> float:
    import torch

    shape = () if batch == 1 else (batch,)
    a, b = torch.randn(*shape, m, k), torch.randn(*shape, k, n)
    return timed(lambda: torch.matmul(a, b), 3 * repetitions)


def _saved_bytes(model: Any, batch: dict[str, Any]) -> int:
    """Bytes that autograd keeps between the forward and the backward pass, weights left out."""
    import torch

    from sftkit import losses
    from sftkit.models.dropout import CheapDropout

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), CheapDropout():
        loss_sum, _ = losses.classification()(model, batch)
    del loss_sum
    return sum(seen.values())


def figure(runs: list[dict[str, Any]], title: str, file: Path) -> dict[str, str]:
    """Time by phase, and what its limit would be."""
    import matplotlib

    matplotlib.use("Agg")
    from sftkit.teach import show

    run = runs[0]
    names = list(run["phases"])
    seconds = [1e3 * run["phases"][n]["seconds"] * run["phases"][n]["times"] for n in names]
    limits = [
        1e3 * run["phases"][n]["limit_seconds"] * run["phases"][n]["times"] for n in names
    ]
    fig, ax = show.new_figure(2.8)
    places = range(len(names))
    ax.barh(places, seconds, color=show.COLOURS[0], label="measured")
    ax.barh(places, limits, height=0.35, color="black", label="matrix products (memory) alone")
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.set_xlabel("milliseconds of a step, forward and backward")
    ax.set_title(title)
    ax.legend(loc="lower right")
    told = "; ".join(f"{n} {s:.0f} of {m:.0f} ms" for n, m, s in zip(names, seconds, limits,
                                                                   strict=True))  # fmt: skip
    alt = f"{title}. What the products alone need: {told}."
    file.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(file, metadata={"Software": None, "Description": alt})
    return {"file": file.name, "alt": alt}


def main(arguments: list[str] | None = None) -> None:
    options = turns.parser(__doc__, "more steps, more often").parse_args(arguments)
    form, out = turns.form(options), turns.result_file(options, "limit")
    sizes = {"batch_size": 4, "tokens": 16, "steps": 3, "repetitions": 2, "probe": 0.005}
    if form != "quick":
        steps = 15 if form == "full" else 6
        sizes = {"batch_size": 32, "tokens": 32, "steps": steps, "repetitions": 9, "probe": 0.1}
    started = time.time()
    runs = turns.take_turns(
        "benchmarks.limit", CONTESTANTS, turns.REPETITIONS[form], sizes,
        lambda r: f"{1e3 * r['step_seconds']:6.0f} ms, {r['limit_share']:.2f} of the limit",
        keep=form != "quick",
    )  # fmt: skip
    summary: dict[str, Any] = turns.medians(
        runs, ("step_seconds", "achieved_gflops", "limit_gflops", "limit_share")
    )
    for name, entry in summary.items():
        ratios = [run["memory"]["ratio"] for run in runs if run["contestant"] == name]
        entry["memory_ratio"] = statistics.median(ratios)
    share = summary["ours"]["limit_share"]
    title = f"A step reaches {100 * share:.0f} % of what its matrix products allow"
    write_json(out, turns.header(
        started, form=form, **turns.machine(), settings={"model": "minilm", **sizes},
        goals=GOALS, summary=summary, runs=runs,
        figure=figure(runs, title, out.with_suffix(".png")),
    ))  # fmt: skip
    print(title)


if __name__ == "__main__":
    main()
