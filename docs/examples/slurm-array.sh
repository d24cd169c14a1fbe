#!/bin/sh
#SBATCH --job-name=blemish
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%A-%a.log
# An array of Slurm over a list of stages, one a line, from a login node in a clone with the environment of `make setup`:
#
#     dvc stage list --name-only | grep '^finetune@' > finetune.txt
#     dvc stage list --name-only | grep '^synth@' > synth.txt
#     first=$(sbatch --parsable --array=1-$(wc -l < finetune.txt) docs/examples/slurm-array.sh finetune.txt)
#     sbatch --dependency=afterok:$first --array=1-$(wc -l < synth.txt) docs/examples/slurm-array.sh synth.txt
#
# Add what your cluster wants, such as `--partition` and `--gres=gpu:1`.
set -eu
stage=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")
export PATH="$PWD/.venv/bin:$PATH"
sh docs/examples/task.sh "$PWD" "$stage"
