#!/bin/sh
# Everything worth running once a GPU is at hand, in under 8 minutes; the machine needs python3 with torch for CUDA, no network.
#
#   sh benchmarks/gpu.sh wheels           where there is a network: what such a machine may lack, into .wheels/ (small; torch is not among it)
#   sh benchmarks/gpu.sh run FOLDER       on the machine with the GPU: tests and benchmarks, their records into FOLDER
#
# PYTHON_VERSION is that of the other machine (3.12). A part that fails or runs out of time leaves its log, and the next one runs.
set -u
cd "$(dirname "$0")/.." || exit 1

wheels() {
    for name in pyro-ppl pyro-api opt-einsum tyro docstring-parser shtab typeguard safetensors pyyaml rich markdown-it-py \
        mdurl pygments pillow matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil six packaging tqdm \
        pytest pluggy iniconfig hypothesis sortedcontainers beartype jaxtyping wadler-lindig; do
        python3 -m pip download -q --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" --implementation cp \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
            --platform manylinux2014_x86_64 -d .wheels "$name" || exit 1
    done
    du -sh .wheels
}

# part SECONDS NAME COMMAND...: its output in NAME.log
part() {
    limit=$1 name=$2
    shift 2
    echo "== $name (at most $limit s)"
    timeout "$limit" "$@" > "$out/$name.log" 2>&1
    echo "   exit $?"
    tail -n 15 "$out/$name.log"
}

run() {
    out=$1
    mkdir -p "$out" || exit 1
    if [ -d .wheels ]; then
        # Only what is missing: the machine's own numpy and torch stay.
        python3 -m pip install -q --no-index --no-deps --target "$out/site" .wheels/*.whl || exit 1
        PYTHONPATH=$out/site
    fi
    export PYTHONPATH="$PWD:${PYTHONPATH:-}" TORCHINDUCTOR_CACHE_DIR="$out/cache"
    python3 -c "import torch; assert torch.cuda.is_available(), 'torch sees no GPU'; print(torch.__version__, torch.cuda.get_device_name())" || exit 1
    part 60 tests python3 -m pytest -q -p no:cacheprovider tests/engine/test_cudagraph.py
    part 60 check python3 -m ppvae check vae --speed
    part 200 step_time python3 benchmarks/step_time.py --out "$out/step_time_gpu.json" --case mlp iwae_5 --pairs 7
    part 60 train python3 -m ppvae train vae --epochs 5 --eval-k 0 --out "$out/runs"
    part 60 train_bf16 python3 -m ppvae train vae --epochs 5 --eval-k 0 --precision bf16 --out "$out/runs"
    rm -rf "$out/cache" "$out/site"
}

case "${1:-}" in
    wheels) wheels ;;
    run) run "${2:?give a folder for the records}" ;;
    *) sed -n 2,7p "$0"; exit 2 ;;
esac
