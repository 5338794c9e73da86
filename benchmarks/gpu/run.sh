#!/usr/bin/env bash
# run.sh FOLDER OUT: gets all evidence from the GPU of this machine.
#
# FOLDER was made by prepare.sh. ONLY=step,step runs these steps; PYTHON names the interpreter.
set -uo pipefail

folder=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONUNBUFFERED=1 CTCX_STRICT_PLUGINS=1
shopt -s nullglob
for wheel in "$folder"/wheels/*.whl; do # a wheel is a zip archive
  "$python" -m zipfile -e "$wheel" "$site" || exit 2
done
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
failed=0

# step NAME SECONDS COMMAND...
step() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  case ",${ONLY:-$name}," in *",$name,"*) ;; *) return ;; esac
  timeout --kill-after 5 "$limit" "$@" > "$out/$name.txt" 2>&1
  status=$?
  [ "$status" = 0 ] || failed=1
  printf '%-12s exit code %-3s %4s s | %s\n' "$name" "$status" "$((SECONDS - start))" \
    "$(grep -v '^ *$' "$out/$name.txt" | tail -n 1 | cut -c 1-150)" | tee -a "$out/summary.txt"
}

: > "$out/summary.txt"
step machine 60 bash -c "nvidia-smi; smi=\$?; '$python' -m pip list; '$python' -m ctcx doctor && exit \$smi"
step warmup 120 "$python" -m ctcx_cuda warmup
step correct 120 "$python" "$folder/correct.py"
step speed 150 "$python" "$folder/speed.py" --json "$out/speed.json"
step conformance 90 "$python" -m ctcx conformance cuda --library cupy --json "$out/conformance.json"
step torch 60 "$python" -m ctcx conformance cuda --library torch --json "$out/torch.json"
for tool in memcheck racecheck; do
  step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
    "$python" "$folder/correct.py" --few
done
step core 60 "$python" "$folder/correct.py" --few --backend array-api
step jax 60 "$python" "$folder/speed.py" --jax --json "$out/jax.json"
step profile 60 ncu --clock-control none --set basic --kernel-name regex:ctc \
  "$python" "$folder/correct.py" --few
exit "$failed"
