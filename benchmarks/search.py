"""The table of runs in which notebook 19 searches: every setting of a small space, seven seeds.

    python benchmarks/search.py --dry-run      # how many are missing
    python benchmarks/search.py                # all of them, about 4 minutes of one core
    python benchmarks/search.py --minutes 3    # begin no setting after three minutes

It may be interrupted at any time; each setting is in the records when its seeds are done.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import campaign
from sftkit.lessons import heads

RECORDS = campaign.ROOT / "benchmarks" / "records" / "search.json"
SEEDS = tuple(range(7))


def jobs() -> list[dict[str, Any]]:
    """Every setting once. Those with large batches, which are cheap, come first."""
    return sorted(heads.settings(), key=lambda job: -job["batch_size"])


def one_job(job: dict[str, Any], data: dict[str, heads.Split]) -> dict[str, Any]:
    """All seeds of a setting; lists go with the seeds."""
    runs = [heads.train_head(data, job, seed) for seed in SEEDS]
    return {
        "job": job,
        "seeds": list(SEEDS),
        "validation": [run["validation"] for run in runs],  # after each epoch
        "test": [run["test"] for run in runs],
        "processor_seconds": round(sum(run["seconds"] for run in runs), 2),
        "torch": metadata.version("torch"),
        "date": time.strftime("%Y-%m-%d"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="say what is missing, and stop")
    parser.add_argument("--minutes", type=float, help="begin no setting after so many")
    parser.add_argument("--out", type=Path, default=RECORDS, help="the records")
    options = parser.parse_args(arguments)
    known = [run["job"] for run in campaign.read_records(options.out)]
    plan = jobs()
    todo = [job for job in plan if job not in known]
    print(f"{len(todo)} of {len(plan)} settings to do, {len(SEEDS)} seeds each")
    if options.dry_run or not todo:
        return
    import torch

    os.environ.setdefault("TQDM_DISABLE", "1")
    torch.set_num_threads(1)  # as small as these gain nothing from more
    data = heads.splits(test=heads.TEST)
    begin = time.monotonic()
    for count, job in enumerate(todo):
        if options.minutes is not None and time.monotonic() - begin > 60 * options.minutes:
            print(
                f"{options.minutes:g} minutes are over; {len(todo) - count} settings are left"
            )
            return
        done = one_job(job, data)
        campaign.keep_run(options.out, done, plan)
        print(*job.values(), f"{done['processor_seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
