#!/bin/sh
# The shape of Llama-3-8B: 8 samples of 512 tokens, and 1 of 2048, with recomputed activations. Three models of 16 GB are
# in memory at once, so that their steps can alternate. Under ten minutes on one GPU of 80 GB.
. "$(dirname "$0")/measure.sh"
measure "llama-8b-512-by-8" --models random-8b --batch-size 8 --length 512 --pools 64 --gradient-checkpointing \
    --lora attention --rounds 6 --slow-rounds 2 --batches 2 --run-steps 8
measure "llama-8b-2048-by-1" --models random-8b --batch-size 1 --length 2048 --pools 16 --gradient-checkpointing \
    --lora all_linear --rounds 6 --slow-rounds 2 --batches 2 --run-steps 8
