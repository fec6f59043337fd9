#!/usr/bin/env bash
# What dsenv does on the GPU of this machine, in under ten minutes: the tests that need one, the speed
# benchmarks with settings that fit, and the first rows of the reproduction. Tables go to the terminal, JSON to the folder given, by default
# benchmarks/results/gpu. dsenv must be installed with its extra `test`.
#
#     benchmarks/gpu.sh [FOLDER]
set -uo pipefail
cd "$(dirname "$0")/.."
out="${1:-benchmarks/results/gpu}"
mkdir -p "$out"
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python="${PYTHON:-python3}"
failed=""

# `part NAME SECONDS COMMAND...`: a command, stopped after that time
part() {
  echo "== $1, from $(date +%T)"
  timeout "$2" "${@:3}" || failed+=" $1"
}

part tests 150 "$python" -m pytest -q -n 4 -m gpu -p no:cacheprovider tests
part gpu_shares 60 "$python" benchmarks/gpu_shares.py --repeats 5 --json "$out/gpu_shares.json"
part env_speed 90 "$python" benchmarks/env_speed.py --replicas 1 64 --loop-cap 4 --workers 0 --repeats 3 \
  --window 1 --json "$out/env_speed.json"
part forms 60 "$python" benchmarks/forms.py --device cuda --replicas 1 8 64 --rounds 3 --json "$out/forms.json"
part overhead 90 "$python" benchmarks/overhead.py --images 3000 --repeats 3 --json "$out/overhead.json"
part pipeline 60 "$python" benchmarks/pipeline.py --samples 512 --batches 512 --repeats 2 --json "$out/pipeline.json"
[[ -d /usr/share/datasets/fashion-mnist ]] && images="" || images="--generated"
part reproduce 75 "$python" benchmarks/reproduce.py --preset gpu --sections curve --seeds 1 --stop-after 40 \
  --out "$out/reproduce_gpu.jsonl" $images

echo "failed:${failed:- nothing}"
[[ -z "$failed" ]]
