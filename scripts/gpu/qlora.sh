#!/bin/sh
# QLoRA: the shape of Llama-3-8B in four bits. Under ten minutes on one GPU of 48 GB.
. "$(dirname "$0")/measure.sh"
measure "llama-8b-qlora-512-by-8" --models random-8b --four-bits --batch-size 8 --length 512 --pools 32 \
    --gradient-checkpointing --lora all_linear --rounds 6 --slow-rounds 2 --batches 2 --run-steps 8
