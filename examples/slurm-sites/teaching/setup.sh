# Source it on the login node before each call; jobs inherit what it sets.
module load python/3.11 cuda               # before the environment, which then finds its python
. .venv/bin/activate
export HF_HOME=/shared/huggingface         # filled by the course's staff, read-only to students
export WORK=/scratch/$USER/peft-tradeoffs  # results, logs and states: not in the home folder, whose quota is small
mkdir -p "$WORK"
cp -n config.yaml "$WORK"                  # once; from then on edit the copy: that is the one that Snakemake reads
