#!/bin/sh
# One stage of the pipeline in a clone of its own: what it needs comes from the remote, what it makes goes there.
#
#     sh docs/examples/task.sh REPOSITORY STAGE [REVISION]
#
# REPOSITORY: a path or URL that `git clone` takes; its DVC remote must be one that every machine reaches.
# The results come home by `dvc fetch --run-cache` and `dvc repro --pull` (docs/many-machines.md).
set -eu
repository=$1 stage=$2 revision=${3:-HEAD}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet "$repository" "$folder/clone"
cd "$folder/clone"
git checkout --quiet --detach "$revision"
dvc pull --quiet --allow-missing  # data and results that the lock names
dvc fetch --quiet --run-cache  # and those of other tasks
dvc repro --pull "$stage"
dvc push --quiet --run-cache "$stage"
