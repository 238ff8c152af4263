"""Sweeps as a user starts them: one run after the other, in processes beside each other, on Slurm."""

import csv
import json
import os

import pytest
from omegaconf import OmegaConf

from tests.runs import QUICK, SMALL_RUN, overrides, run_script


def start_sweep(folder, *arguments):
    done = run_script("train.py", folder / "unused", f"hydra.sweep.dir={folder}", "validate_first=false", *arguments, "--multirun")
    with (folder / "sweep.csv").open(newline="") as file:
        return done, list(csv.DictReader(file))


def test_a_sweep_ends_in_a_table_and_a_plot_also_when_a_run_failed(assets, world, tmp_path):
    arguments = [*overrides(assets, world), *SMALL_RUN, "expert_layer=0,2,9", "trainer.max_steps=2"]
    done, rows = start_sweep(tmp_path, *arguments)
    assert done.returncode == 1 and "error: block 9 does not exist" in done.stderr and "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr
    assert "sweep over expert_layer" in done.stdout and (tmp_path / "sweep.png").stat().st_size > 1000
    assert [json.loads((tmp_path / k / "metrics.json").read_text())["expert_layer"] for k in "01"] == [0, 2]
    assert [row["expert_layer"] for row in rows] == ["0", "2", "9"] and [bool(row["lora/miou"]) for row in rows] == [True, True, False]


def test_a_search_in_two_processes_finds_the_best_of_its_runs(assets, world, tmp_path):
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUICK, "trainer.max_steps=2", "model.objective.mask_weight=interval(0.01,100.0)"]
    arguments += ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done, rows = start_sweep(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    best = max(rows, key=lambda row: float(row["val/miou"]))
    assert len(rows) == 2 and found.best_value == float(best["val/miou"])
    assert found.best_params["model.objective.mask_weight"] == float(best["model.objective.mask_weight"])


SLURM = {  # stand-ins that run the two jobs of an array on this machine, one after the other, each with two processes
    "sbatch": """export SLURM_JOB_NAME=sweep SLURM_NODEID=0 SLURM_NNODES=1 SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2
        export SLURM_NODELIST=127.0.0.1 SLURM_JOB_NODELIST=127.0.0.1 SLURM_ARRAY_JOB_ID=70
        (for job in 0 1; do
            SLURM_JOB_ID=7$job SLURM_ARRAY_TASK_ID=$job bash "$1"
            echo "70_$job|COMPLETED|here" >> "$(dirname "$0")/done"
        done) > /dev/null 2>&1 &
        echo Submitted batch job 70""",
    "srun": """while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] && shift || shift 2; done  # its options are where to write logs
        for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & done; wait""",
    "sacct": """echo "JobID|State|NodeList"; cat "$(dirname "$0")/done" 2> /dev/null || true""",
}


@pytest.mark.slow
def test_a_sweep_on_slurm_may_have_several_processes_for_each_job(assets, world, tmp_path, monkeypatch):
    for name, script in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    arguments = [*overrides(assets, world), *SMALL_RUN, *QUICK, "~trainer.accelerator", "trainer=ddp_cpu", "trainer.max_steps=2"]
    done, rows = start_sweep(tmp_path, *arguments, "lora.rank=2,4", "hydra/launcher=slurm", "hydra.launcher.tasks_per_node=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row["lora.rank"] for row in rows] == ["2", "4"] and all(row["val/miou"] for row in rows)
    assert "--ntasks-per-node=2" in next((tmp_path / ".submitit").glob("*/*_submission.sh")).read_text()
