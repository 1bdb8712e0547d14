"""Processes started for a notebook: the ring, failures, and the files to take away."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sftkit.errors import ParameterError, RunError
from sftkit.lessons import parallel
from sftkit.lessons.processes import together

PLANS = Path(__file__).resolve().parents[1] / "notebooks" / "plans"


def test_three_processes_sum_round_a_ring() -> None:
    shapes = [[2], [7], [3, 4]]  # the first has fewer numbers than there are processes
    found = together(("reduce_both_ways", {"shapes": shapes}), processes=3)
    expected = []
    for number, shape in enumerate(shapes):
        draws = [
            torch.randn(
                shape, generator=torch.Generator().manual_seed(100 * number + rank),
                dtype=torch.float64,
            )
            for rank in range(3)
        ]  # fmt: skip
        expected += sum(draws).flatten().tolist()
    for (answer,) in found:
        assert answer["ours"] == pytest.approx(expected, abs=1e-12)
        assert answer["torch"] == pytest.approx(expected, abs=1e-12)
    # 2 (N - 1) / N of the bytes, on average over the processes.
    sent = np.mean([answer["sent"] for (answer,) in found], axis=0)
    assert sent == pytest.approx([8 * n * 4 / 3 for n in (2, 7, 12)])


def test_what_cannot_be_done_is_said_and_nobody_waits() -> None:
    with pytest.raises(ParameterError, match="no function nothing"):
        together(("nothing", {}))
    with pytest.raises(ParameterError, match="0 processes"):
        together(processes=0)
    # One that fails leaves the others waiting for it: they are ended.
    with pytest.raises(RunError, match=r"(?s)process \d ended with 1.*TypeError"):
        together(("reduce_times", {"sizes": ["ten"], "repetitions": 1}))


def test_rows_are_dealt_and_none_is_lost() -> None:
    rows = parallel.uneven_texts(9)
    dealt = parallel.text_batches(9, 2)
    lengths = [b["attention_mask"].sum(1).tolist() for b in dealt]
    assert lengths == [[len(r) for r in rows[0::2]], [len(r) for r in rows[1::2]]]
    assert len({len(row) for row in rows}) > 4  # uneven, or the notebook shows nothing


@pytest.mark.parametrize("name", ["accelerate_two_cpu.yaml", "accelerate_gpus.yaml"])
def test_accelerate_reads_the_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(PLANS / name))
    assert config.num_processes == (2 if "cpu" in name else 8)
    assert config.use_cpu == ("cpu" in name)
    assert config.distributed_type == "MULTI_GPU"


@pytest.mark.skipif(sys.platform == "win32", reason="the job is a shell script")
def test_the_slurm_job_starts_one_launcher_per_machine(tmp_path: Path) -> None:
    """With stand-ins for Slurm; the launcher's own parser judges what it would be given."""
    from accelerate.commands.launch import launch_command_parser

    script = PLANS / "train_small.slurm"
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), re.M))
    assert options["nodes"] == "2" and options["ntasks-per-node"] == "1"
    for name, line in {
        "scontrol": 'printf "node-a\\nnode-b\\n"',
        "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "accelerate": 'printf "%s " "$@"; echo',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "123456", "SLURM_NNODES": "2"}
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", script], env=os.environ | slurm | path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        verb, *given = line.split()
        assert verb == "launch"
        parsed = launch_command_parser().parse_args(given)
        assert (parsed.num_machines, parsed.num_processes) == (2, 8)
        assert (parsed.machine_rank, parsed.main_process_ip) == (rank, "node-a")
        assert parsed.main_process_port == 23456
        assert (PLANS / parsed.config_file).is_file()
        assert (PLANS / parsed.training_script).is_file()
        assert parsed.training_script_args == ["--out", "run", "--resume"]


@pytest.mark.skipif(sys.platform == "win32", reason="the job is a shell script")
def test_a_job_without_its_machines_does_not_start(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(
        ["bash", PLANS / "train_small.slurm"], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0 and "SLURM_JOB_NODELIST" in done.stderr
