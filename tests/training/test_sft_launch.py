"""The launch files say what they must: one rendezvous, as many nodes everywhere, and always --resume."""

import os
import subprocess
from pathlib import Path

import kubernetes_validate
import yaml

LAUNCH = Path(__file__).parents[2] / "training" / "launch"


def run_slurm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With stand-ins for SLURM's commands: `srun` prints what it would start."""
    for name, body in (("scontrol", 'echo "node7\nnode8"'), ("srun", 'printf "%s\\n" "$@"')):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_ID": "123456",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
    }
    argv = [str(LAUNCH / "slurm.sh"), *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True)


def test_slurm_starts_torchrun_on_every_node_and_resumes(tmp_path: Path) -> None:
    done = run_slurm(tmp_path, "--recipe", "s1-32b", "--data", "with space.parquet", "--out", "runs/x")
    assert done.returncode == 0, done.stderr
    started = done.stdout.splitlines()
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=node7:23456"} <= set(started)
    assert started[started.index("training.sft") :] == [
        "training.sft", "--recipe", "s1-32b", "--data", "with space.parquet", "--out", "runs/x", "--resume",
    ]  # fmt: skip
    assert run_slurm(tmp_path).returncode == 2


def test_the_kubernetes_job_agrees_with_itself() -> None:
    claim, service, job = yaml.safe_load_all((LAUNCH / "kubernetes-job.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    arguments = dict(
        argument.removeprefix("--").split("=", 1) for argument in container["args"] if "=" in argument
    )
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == int(arguments["nnodes"])
    assert int(arguments["nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    name, (port,) = service["metadata"]["name"], service["spec"]["ports"]
    assert spec["template"]["spec"]["subdomain"] == name
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert arguments["rdzv-endpoint"] == f"{job['metadata']['name']}-0.{name}:{port['port']}"
    assert container["args"][-1] == "--resume"
    (work,) = [v for v in spec["template"]["spec"]["volumes"] if v["name"] == "work"]
    assert work["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in spec["template"]["spec"]["volumes"]
    }


def test_kubernetes_takes_the_job() -> None:
    for manifest in yaml.safe_load_all((LAUNCH / "kubernetes-job.yaml").read_text()):
        for version in ("1.31.0", "1.37.0"):
            kubernetes_validate.validate(manifest, version, strict=True)
