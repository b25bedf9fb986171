#!/usr/bin/env bash
# Fine-tuning on several nodes under SLURM: one torchrun per node, one process per GPU.
#
#   sbatch training/launch/slurm.sh --recipe s1-32b --data s1K.parquet --out runs/s1-32b \
#     --set data.columns.thinking=thinking_trajectories --set data.columns.answer=attempt
#
# Where flash-attn is not installed, add --set model.attention=sdpa (docs/sft.md).
#
# Everything after the script's name goes to `s1 sft`. --out, the data and the model must lie on a file system
# that all nodes share. --resume is always passed: a job that SLURM requeues goes on from its last whole
# checkpoint, and one that is new starts from the beginning. Not run here: written from SLURM's documentation.
#SBATCH --job-name=s1-sft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

if [ "$#" -eq 0 ]; then
  echo "usage: sbatch $0 --recipe RECIPE --data FILE --out FOLDER" >&2
  exit 2
fi

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"

exec srun --kill-on-bad-exit=1 python -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" \
  --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" \
  --rdzv-id="$SLURM_JOB_ID" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="$head_node:$port" \
  -m training.sft "$@" --resume
