#!/usr/bin/env bash
#SBATCH --job-name=attention-rhythm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=48:00:00
#SBATCH --output=slurm-%j.log
# A run on several machines: a Ray head on the first, a Ray worker on each other, verl's driver on the head.
#   sbatch attention_rhythm/integrations/verl/launchers/slurm.sh scale=qwen3_8b_1k task=maths algorithm.rhythm.strategy=coupled_rhythm
# Submitted again after it was stopped, the run goes on from its last checkpoint (trainer.resume_mode=auto), so the folder
# of the repository has to be on a file system that all machines share. The environment of environment.yml is active.
set -euo pipefail

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(head -n 1 <<< "$nodes")
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')
port=6379
export RAY_ADDRESS=$address:$port VERL_USE_EXTERNAL_MODULES=attention_rhythm.integrations.verl.plugin
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
srun --nodes=1 --ntasks=1 -w "$head" ray start --head --node-ip-address="$address" --port=$port --block &
for ((waited = 0; waited < 120; waited += 5)); do
    if ray status > /dev/null 2>&1; then break; fi
    sleep 5
done
for node in $(tail -n +2 <<< "$nodes"); do
    srun --nodes=1 --ntasks=1 -w "$node" ray start --address="$RAY_ADDRESS" --block &
done
sleep 15

python -m attention_rhythm.integrations.verl.launch --make-data "$@" trainer.resume_mode=auto
