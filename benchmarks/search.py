"""The table of runs in which notebook 19 searches: every setting of a small space, seven seeds.

    python benchmarks/search.py --dry-run      # what is missing
    python benchmarks/search.py                # all of it, about 4 minutes of one core
    python benchmarks/search.py --minutes 3    # begin no setting after three minutes

It may be interrupted at any time; each setting is in the records when its seeds are done.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.jobs import Campaign, Job, Record
from sftkit.lessons import heads

SEEDS = tuple(range(7))
SECONDS = 0.7  # of one core, for a setting and all its seeds


def jobs() -> list[Job]:
    """Every setting once. Those with large batches, which are cheap, come first."""
    return sorted(heads.settings(), key=lambda job: -job["batch_size"])


@lru_cache(maxsize=1)
def data() -> dict[str, heads.Split]:
    """The features that every setting learns from."""
    import torch

    os.environ.setdefault("TQDM_DISABLE", "1")
    torch.set_num_threads(1)  # as small as these gain nothing from more
    return heads.splits(test=heads.TEST)


def one_job(job: Job, runs: list[Record]) -> Record:
    """All seeds of a setting; lists go with the seeds."""
    found = [heads.train_head(data(), job, seed) for seed in SEEDS]
    return {
        "seeds": list(SEEDS),
        "validation": [run["validation"] for run in found],  # after each epoch
        "test": [run["test"] for run in found],
        "torch": metadata.version("torch"),
    }


CAMPAIGN = Campaign(
    Path(__file__),
    jobs,
    one_job,
    stamp=None,
    line=lambda job: "  ".join(f"{name} {value:g}" for name, value in job.items()),
    told=lambda record: f"{record['processor_seconds']:.1f} s",
    guess=lambda job: SECONDS,
    alike=("batch_size",),
    precisions=("fp32",),  # that of `heads.train_head`
)

if __name__ == "__main__":
    CAMPAIGN.main(__doc__)
