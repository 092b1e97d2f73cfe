#!/bin/sh
# A step, a refresh, memory and whole runs on a model of the shape of Gemma-3-1B: micro-batches of 1 and 8 samples of 512
# tokens. Under ten minutes on one GPU of 24 GB.
. "$(dirname "$0")/measure.sh"
for samples in 8 1; do
    measure "gemma-1b-512-by-$samples" --models random-gemma-1b --batch-size "$samples" --length 512 --pools 256 \
        --rounds 12 --slow-rounds 4 --batches 4 --run-steps 20
done
