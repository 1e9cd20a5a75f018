#!/usr/bin/env bash
# Every figure that a GPU owes this project, in about ten minutes on one H100; not yet run on any.
#
#   benchmarks/on_a_gpu.sh TRANSCRIPTS.txt VOCABULARY.txt [FOLDER]
#
# TRANSCRIPTS: lines of "ID TEXT", such as LibriSpeech's; VOCABULARY: bert-base-uncased's vocab.txt;
# FOLDER takes one JSON a benchmark. Run from the repository's root, in the environment of `make setup`.
set -euo pipefail
transcripts=$1 vocabulary=$2 folder=${3:-gpu-figures}
python=.venv/bin/python
mkdir -p "$folder"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv

# The teacher at BERT-base size: rows per second, the published recipe beside it, the fraction of the floor.
$python benchmarks/teacher_throughput.py --text "$transcripts" --vocabulary "$vocabulary" --size base \
    --device cuda --dtype bfloat16 --transcripts 1000 --rounds 3 --json "$folder/teacher_throughput.json"
$python - "$folder/teacher_throughput.json" <<'END'
import json, sys
rows_per_second = json.load(open(sys.argv[1]))["rows_per_second"]["ours"]
print(f"the roughly 10.5 million rows of LibriSpeech-960 would take {10.5e6 / rows_per_second / 60:.1f} min")
END

# The student of librispeech-100 on batches of its shape, eager and compiled: speed, memory, ratios, floor.
for options in "" "--compile"; do
    $python benchmarks/train_step.py --config librispeech-100 --device cuda --pieces 10000 --teacher-rounds 3 \
        $options --json "$folder/train_step${options/--/_}.json"
done

# The tests that only a GPU runs.
$python -m pytest -m gpu -q
