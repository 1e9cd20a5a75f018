#!/usr/bin/env bash
# The project on a machine that has one GPU, PyTorch and transformers, and no network: what it lacks is brought along.
#
#   benchmarks/on_a_gpu.sh receive FOLDER     installs FOLDER/wheels, unpacks FOLDER/*.tar*, makes speech ready to read
#   benchmarks/on_a_gpu.sh everything         the GPU tests beside a small rehearsal of all that follows, then the figures
#   benchmarks/on_a_gpu.sh tests              the GPU tests alone, in the background
#   benchmarks/on_a_gpu.sh figures            teacher rows a second and training steps, eager and compiled
#   benchmarks/on_a_gpu.sh teacher            adapts MiniLM and builds the cache, in the background
#   benchmarks/on_a_gpu.sh compile            compiles the students' blocks, in the background; used where it pays
#   benchmarks/on_a_gpu.sh students           one encoder, then every student of on_a_gpu_students.toml from it, side by side;
#                                             it goes on from WORK/encoder, a run folder, where `receive` unpacked one, and
#                                             is that very one with --base-seconds 0; where there is WORK/ear, a
#                                             transformers folder of Whisper base, students hear through its
#                                             encoder (benchmarks/pretrained_ear.py), with four blocks of their own
#   benchmarks/on_a_gpu.sh summary            what was done, how long it took, what went wrong
#
# `teacher` reads manifests: of speech that is received and prepared, or brought along as WORK/runs/prepared, to be put
# aside before `students` prepares what was received. Seconds on an H100 with 16 slow cores, 2026-11-28: teacher 193,
# cache 77, base 73 beside its steps (start, timing, dev), branches 30 to 60 beside theirs, error rates 45.
#
# Run from the repository's root. WORK holds everything that is made, OUT what is to be kept: logs, JSON, hypotheses.
# PYTHON needs nothing installed beyond what `receive` brings; the code that runs is this working tree's.
set -euo pipefail
export WORK=${WORK:-/tmp/bert2ctc} OUT=${OUT:-$PWD/gpu-figures} PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD:$WORK/site PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
export TOKENIZERS_PARALLELISM=true HF_HUB_OFFLINE=1
export BERT2CTC_DATA=$WORK/data BERT2CTC_CACHE=$WORK/caches BERT2CTC_RUNS=$WORK/runs BERT2CTC_SCRATCH=$WORK/scratch
mkdir -p "$WORK" "$OUT"
if [ "${1:-}" = receive ] && compgen -G "${2:?a folder}/wheels/*.whl" > /dev/null; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$WORK/site" "$2"/wheels/*.whl ||
        for wheel in "$2"/wheels/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "$WORK/site"; done
fi
exec "$PYTHON" benchmarks/on_a_gpu.py "$@"
