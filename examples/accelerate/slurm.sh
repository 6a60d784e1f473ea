#!/bin/bash
# Never run under Slurm; a test runs it with stand-ins for srun and scontrol. Many machines, preemption included.
#
#   sbatch --nodes 4 slurm.sh --recipe RECIPE --dataset_name DATA --model_name_or_path MODEL --output_dir OUT
#
# The words after the script are those of `segzoo train`; OUT lies on a file system that all machines share. Slurm sends
# SIGTERM to every process when the job is preempted, and five minutes before its time is over: segzoo then writes a
# checkpoint of the last step and ends with status 75. The job is put back into the queue, and goes on from there.
#SBATCH --job-name=segzoo
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

# One task for each GPU: there is no launcher that would kill its processes thirty seconds after a SIGTERM.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export ACCELERATE_MIXED_PRECISION=${ACCELERATE_MIXED_PRECISION:-bf16}

# SHARD=1 sbatch ... divides the model over the GPUs, as fsdp2_8_gpus.yaml does.
if [ "${SHARD:-0}" = 1 ]; then
    export ACCELERATE_USE_FSDP=true FSDP_VERSION=2 FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP
    export FSDP_RESHARD_AFTER_FORWARD=true FSDP_ACTIVATION_CHECKPOINTING=true
    export FSDP_STATE_DICT_TYPE=SHARDED_STATE_DICT FSDP_CPU_RAM_EFFICIENT_LOADING=false
fi

# Where OUT is empty, "latest" starts from the beginning.
srun --kill-on-bad-exit=0 --wait=600 bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$@"' segzoo \
    python -m segzoo train "$@" --resume_from_checkpoint latest
status=$?
if [ "$status" = 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
