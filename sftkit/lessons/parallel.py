"""What the processes of notebook 23 do. `processes.together` calls these by name."""

from __future__ import annotations

import gc
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional as F

from sftkit.batches import Batches, Examples

if TYPE_CHECKING:
    from sftkit.batches import Batch
    from sftkit.models.decoder import Decoder

# Of the runs that one process and two make: four micro-batches a step.
RUN = {"epochs": 3, "lr": 1e-2, "save_every": 2, "precision": "fp32", "keep": 2}


def uneven_texts(rows: int = 26) -> list[list[int]]:
    """Texts of token ids that count up in threes, of 3 to 30 tokens."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 31, rows)
    begins = generator.integers(0, 50, rows)
    return [
        [int(b + 3 * t) % 50 for t in range(n)] for b, n in zip(begins, lengths, strict=True)
    ]


def small_decoder() -> Decoder:
    """A language model of some thousand parameters in float64; always the same weights."""
    from sftkit.models.decoder import Decoder, DecoderConfig  # slow: not every task needs it

    torch.manual_seed(0)
    sizes = dict(width=16, layers=2, heads=2, kv_heads=1, feed_forward=32, max_length=32)
    return Decoder(DecoderConfig(50, **sizes)).double()  # type: ignore[arg-type]


def small_batches(rows: int = 26) -> Batches:
    """Steps of eight texts in micro-batches of two, to be dealt to the processes."""
    return Batches(Examples.of_tokens(uneven_texts(rows)), 8, micro_batch_size=2, seed=0)


def text_batches(rows: int, workers: int) -> list[Batch]:
    """The same texts, dealt to the workers like cards."""
    examples = Examples.of_tokens(uneven_texts(rows))
    return [examples.batch(np.arange(rank, rows, workers)) for rank in range(workers)]


# -- all-reduce by hand ----------------------------------------------------------------------


def ring_all_reduce(x: torch.Tensor) -> int:
    """Sum a tensor over all processes, in place, passing parts round a ring.

    Every process sends to the next one only. After ``world - 1`` steps each holds one part
    that is summed over all; after as many again everybody has every part (Patarasuk and Yuan
    2009, "Bandwidth optimal all-reduce algorithms").

    Args:
        x: Contiguous, of the same shape everywhere.

    Returns:
        The bytes that this process has sent.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    parts = x.view(-1).tensor_split(world)  # views: what is added to them is added to x
    sent = 0

    def exchange(give: int, take: int, add: bool) -> int:
        buffer = torch.empty_like(parts[take])
        sending = distributed.isend(parts[give], (rank + 1) % world)
        distributed.recv(buffer, (rank - 1) % world)
        if sending is not None:
            sending.wait()
        parts[take].add_(buffer) if add else parts[take].copy_(buffer)
        return parts[give].numel() * parts[give].element_size()

    for step in range(world - 1):  # reduce-scatter
        sent += exchange((rank - step) % world, (rank - step - 1) % world, add=True)
    for step in range(world - 1):  # all-gather
        sent += exchange((rank + 1 - step) % world, (rank - step) % world, add=False)
    return sent


def reduce_both_ways(shapes: list[list[int]]) -> dict[str, Any]:
    """Our ring and torch's all-reduce on the same random tensors."""
    ours, torchs, sent = [], [], []
    for number, shape in enumerate(shapes):
        generator = torch.Generator().manual_seed(100 * number + distributed.get_rank())
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        y = x.clone()
        sent.append(ring_all_reduce(x))
        distributed.all_reduce(y)
        ours += x.flatten().tolist()
        torchs += y.flatten().tolist()
    return {"ours": ours, "torch": torchs, "sent": sent}


# -- gradients -------------------------------------------------------------------------------


def flat_gradient(model: nn.Module) -> torch.Tensor:
    """All gradients in one row."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def gradients(rows: int) -> dict[str, list[float]]:
    """The gradient of uneven shares: by our ring, and by torch's DDP in two ways."""
    from torch.nn.parallel import DistributedDataParallel

    from sftkit import losses_lm

    rank, world = distributed.get_rank(), distributed.get_world_size()
    loss, batch = losses_lm.causal_lm(), text_batches(rows, world)[rank]
    model = small_decoder()
    loss_sum, n = loss(model, batch)
    loss_sum.backward()  # of the sum; divided once, by everybody's count
    ours, count = flat_gradient(model), n.double().reshape(1)
    ring_all_reduce(ours)
    ring_all_reduce(count)
    found = {"ring": (ours / count).tolist(), "counts": [float(n), float(count)]}
    for name, divisor in (("ddp_means", n), ("ddp_sums", count / world)):
        wrapped = DistributedDataParallel(small_decoder())
        loss_sum, _ = loss(wrapped, batch)
        (loss_sum / divisor).sum().backward()  # DDP takes the mean of the processes' gradients
        found[name] = flat_gradient(wrapped.module).tolist()
    return found


# -- sharded parameters ----------------------------------------------------------------------


def wide_model(layers: int, width: int) -> nn.Sequential:
    """Blocks of two linear layers without biases: ``8 * layers * width**2`` weights."""
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Linear(width, 4 * width, bias=False),
                nn.GELU(),
                nn.Linear(4 * width, width, bias=False),
            )
            for _ in range(layers)
        )
    )


def weights_of(number: int, shape: torch.Size) -> torch.Tensor:
    """The first values of a model's parameter by its number, the same in every process."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(shape, generator=generator) / shape[1] ** 0.5


def train_wide(how: str, layers: int, width: int, steps: int, rows: int = 8) -> dict[str, Any]:
    """Train `wide_model`, copied or sharded, and measure what a process holds.

    Args:
        how: ``copied`` (DDP) or ``sharded`` (FSDP: `torch.distributed.fsdp.fully_shard`).
        rows: In all; each process has its share.

    Returns:
        ``losses``; ``held``, bytes of parameters, gradients and the optimizer's moments that
        this process has after a step; ``resident``, by how much its memory grew.
    """
    import psutil
    from torch.distributed.device_mesh import init_device_mesh

    rank, world = distributed.get_rank(), distributed.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    _warm_up(how, mesh)
    process = psutil.Process()
    before = process.memory_info().rss
    model = _spread(layers, width, how, mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, width, generator=generator)[rank::world]
    seen = []
    for step in range(steps):
        loss = F.mse_loss(model(x), torch.sin(3 * x))
        loss.backward()
        optimizer.step()
        if step == steps - 1:
            held = _held(model, optimizer)
            gc.collect()
            resident = process.memory_info().rss - before
        optimizer.zero_grad()
        mean = loss.detach().clone()
        distributed.all_reduce(mean)
        seen.append(float(mean) / world)
    return {"losses": seen, "held": held, "resident": resident}


def _spread(layers: int, width: int, how: str, mesh: Any) -> nn.Module:
    """The model with its weights: all of them in every process, or a share."""
    with torch.device("meta"):  # nothing is allocated yet: the whole might not fit
        model = wide_model(layers, width)
    if how == "sharded":
        from torch.distributed.fsdp import fully_shard

        for block in model:
            fully_shard(block, mesh=mesh)  # gathered when it is used, let go afterwards
        fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            whole = weights_of(number, parameter.shape)
            if how == "sharded":  # rows are dealt out in order
                parameter.to_local().copy_(whole.chunk(mesh.size())[mesh.get_rank()])  # type: ignore[attr-defined]
            else:
                parameter.copy_(whole)
    if how == "copied":
        # Gradients live in the buckets that are sent, so that they are not held twice.
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    return model


def _warm_up(how: str, mesh: Any) -> None:
    """What libraries allocate on their first use is not the model's."""
    model = _spread(1, 8, how, mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 8)).sum().backward()
    optimizer.step()


def _local(tensor: torch.Tensor) -> int:
    mine = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return mine.numel() * mine.element_size()


def _held(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    parameters = list(model.parameters())
    moments = [t for s in optimizer.state.values() for t in s.values() if t.numel() > 1]
    return {
        "parameters": sum(map(_local, parameters)),
        "gradients": sum(_local(p.grad) for p in parameters if p.grad is not None),
        "moments": sum(map(_local, moments)),
    }


# -- time ------------------------------------------------------------------------------------


def reduce_times(sizes: list[int], repetitions: int) -> list[dict[str, float]]:
    """Median seconds of an all-reduce by bytes: torch's, and our ring."""
    found = []
    for size in sizes:
        x = torch.ones(max(1, size // 4))
        times: dict[str, list[float]] = {"torch": [], "ring": []}
        for _ in range(repetitions + 1):
            for name, reduce in (("torch", distributed.all_reduce), ("ring", ring_all_reduce)):
                distributed.barrier()
                begin = time.perf_counter()
                reduce(x)
                times[name].append(time.perf_counter() - begin)
        # The first is a warm-up.
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        found.append({"bytes": float(x.numel() * 4), **medians})
    return found
