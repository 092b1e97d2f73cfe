# Read by the scripts beside it: measures and keeps the figures. Not to be run by itself.
#   PYTHON=...   interpreter (default: that of .venv)
#   RESULTS=...  folder of the figures (default: benchmarks/results/gpu)
#   QUICK=1      the quick form on a CPU, which shows that everything works but whose figures mean little
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
results=${RESULTS:-benchmarks/results/gpu}
mkdir -p "$results"

# measure NAME FLAG...: writes NAME.json and NAME.txt, the table.
measure() {
    name=$1
    shift
    if [ -n "${QUICK:-}" ]; then
        set -- "$@" --models random-tiny --quick --device cpu --length 32 --pools 16
    fi
    echo "== $name: $*"
    "$python" -m benchmarks.step "$@" --output "$results/$name.json" > "$results/$name.txt"
    cat "$results/$name.txt"
}
