#!/bin/sh
# The same with samples of 2048 tokens. Under ten minutes on one GPU of 80 GB.
. "$(dirname "$0")/measure.sh"
for samples in 8 1; do
    measure "gemma-1b-2048-by-$samples" --models random-gemma-1b --batch-size "$samples" --length 2048 --pools 64 \
        --rounds 8 --slow-rounds 3 --batches 3 --run-steps 12
done
