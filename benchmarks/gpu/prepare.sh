#!/usr/bin/env bash
# prepare.sh FOLDER: all that has to travel to a machine with a GPU and without a network.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
mkdir -p "$1/wheels"
folder=$(cd "$1" && pwd)

cp "$here/run.sh" "$here/correct.py" "$here/problems.py" "$here/speed.py" "$folder/"
for part in . backends/cpu backends/cuda; do
  python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder/wheels" "$project/$part"
done
python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder/wheels" \
  array-api-compat array-api-strict pluggy
# What the command needs, with all that it needs itself.
python3 -m pip download --quiet --only-binary=:all: --dest "$folder/wheels" typer rich
ls "$folder/wheels"
