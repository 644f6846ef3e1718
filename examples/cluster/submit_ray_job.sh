#!/bin/bash
# Submits a run to a Ray cluster that exists already; its nodes have srpo-env[libero,agents,ray].
#
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 examples/cluster/submit_ray_job.sh --seed 2
set -euo pipefail
ray job submit --working-dir . -- \
    python agents/vla_grpo.py --env libero-object --simulators ray --num-envs 64 "$@"
