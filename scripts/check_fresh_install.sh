#!/usr/bin/env bash
# Installs srpo-env as users do, in new virtual environments, and runs the README's first example,
# LIBERO with a world model, and the doctor. Needs a package index.
#
#     bash scripts/check_fresh_install.sh                # all three environments, about 9 GB
#     bash scripts/check_fresh_install.sh core cpu-torch
#
# core: no extras. default-torch: PyPI's torch, with CUDA and triton. cpu-torch: the CPU build.
# PYTHON=/path/to/python3 chooses the interpreter, and TMPDIR the folder of the environments.
# CPU_TORCH="torch==2.13.0" sets pip's arguments for the CPU build (default: PyTorch's own index).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

checkout=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The extras of the README's longest install line.
extras='libero,encoders,agents,sb3'
cpu_index=https://download.pytorch.org/whl/cpu

fail() {
    echo "check: $1" >&2
    exit 1
}

# Creates the environment $1 and installs the remaining arguments into it, one pip call each.
install() {
    local name=$1 arguments
    shift
    "${PYTHON:-python3}" -m venv "$folder/$name"
    for arguments in "$@"; do
        echo "check: $name: pip install $arguments"
        # Word splitting is wanted: the arguments are a command line.
        # shellcheck disable=SC2086
        "$folder/$name/bin/python" -m pip install --disable-pip-version-check --quiet $arguments ||
            fail "$name: pip install $arguments failed"
    done
}

# Runs Python of the environment $1, outside the checkout, on the script in standard input.
run() {
    local name=$1 what=$2
    echo "check: $name: $what"
    (cd "$folder" && "$folder/$name/bin/python" -X faulthandler - >"$folder/output" 2>&1) || {
        cat "$folder/output" >&2
        fail "$name: $what failed"
    }
    tail -n 3 "$folder/output"
}

readme_example() {
    run "$1" "the first example of the README" < <(sed -n '/^```python/,/^```/{/^```/!p;/^```$/q}' README.md)
}

# MuJoCo, torch, triton and transformers in one process.
libero_example() {
    run "$1" "LIBERO with the bundled world model" <<'PYTHON'
import gymnasium
import numpy as np

from srpo_env import SelfReferentialProgressWrapper

envs = gymnasium.make_vec(
    "srpo_env/libero-object", num_envs=2, max_steps=16, vectorization_mode="sync"
)
envs = SelfReferentialProgressWrapper(envs, group_size=2)
envs.reset(seed=0, options={"task_id": 0, "init_state_id": 0})
rewards = np.array([envs.step(envs.action_space.sample())[1] for _ in range(2)])
envs.rewrite(rewards)
(group,) = envs.pop_groups()
print(f"{len(group.episodes)} episodes with latents of shape {group.episodes[0].latent.shape}")
envs.close()
PYTHON
}

# Expects the exit code $2 of the doctor.
doctor() {
    local code=0
    echo "check: $1: srpo-env doctor"
    (cd "$folder" && "$folder/$1/bin/srpo-env" doctor) || code=$?
    [ "$code" = "$2" ] || fail "$1: the doctor must exit with $2, got $code"
}

check_core() {
    install core "$checkout"
    readme_example core
    doctor core 1 # training needs the extras
}

check_full() {
    readme_example "$1"
    libero_example "$1"
    doctor "$1" 0
    rm -rf "${folder:?}/$1"
}

[ $# -gt 0 ] || set -- core default-torch cpu-torch
for environment in "$@"; do
    case $environment in
    core) check_core ;;
    default-torch)
        install default-torch "$checkout[$extras]" '--no-deps hf-libero==0.1.4'
        check_full default-torch
        ;;
    cpu-torch)
        install cpu-torch "${CPU_TORCH:---index-url $cpu_index torch}" "$checkout[$extras]" \
            '--no-deps hf-libero==0.1.4'
        check_full cpu-torch
        ;;
    *) fail "environments must be core, default-torch or cpu-torch, got $environment" ;;
    esac
done
echo "check: passed"
