#!/usr/bin/env bash
#SBATCH --job-name=rsr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# A Slurm job that scores on all GPUs of its nodes; requeued after a fault, it goes on where it stopped:
#   sbatch scripts/slurm.sh 'traces/*.parquet' --student Qwen/Qwen2.5-7B --output-dir /shared/runs/qwen
# Submit it in a clone of this repository, with the environment that has rsr_datasets in it active.
set -euo pipefail
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${hosts%%$'\n'*}  # the first; "| head" would now and then break the pipe, and the job
export NODES=$SLURM_JOB_NUM_NODES PROCESSES_PER_NODE=${SLURM_GPUS_ON_NODE:-1} PORT=$((20000 + SLURM_JOB_ID % 20000))
# A node that dies takes the job with it, so that Slurm requeues it at once.
srun --kill-on-bad-exit=1 bash -c 'exec bash scripts/two_nodes.sh "$SLURM_NODEID" "$@"' node "$address" "$@"
