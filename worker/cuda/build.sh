#!/bin/bash
# Builds layra-worker with the feature `cuda` on a machine without a CUDA toolkit, driver or GPU.
#
#   worker/cuda/build.sh [KIT]        KIT: where the compiler is kept (default: target/cuda-kit)
#
# Needs python3 with pip, g++ and cargo. The compiler comes from the package index (105 MB, 271 MB
# unpacked); the CUDA libraries that the binary is linked to are stubs with the right names, made
# here from the binding crate's list of functions. At run time the real ones must be there: the
# driver's libcuda, and cuBLAS and cuRAND of CUDA 13, which worker/Containerfile.cuda brings along.
#
# CUDA_COMPUTE_CAP  the GPU's compute capability without its point (default: 90, Hopper).
# CARGO_TARGET_DIR  where cargo builds (default: target/cuda).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
kit=$(realpath -m "${1:-target/cuda-kit}")
toolkit=$kit/nvidia/cu13
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/cuda}

# 13.0 and not the newest: an older driver refuses the intermediate code of a newer compiler.
fetch_compiler() {
    mkdir -p "$kit/wheels"
    python3 -m pip download --quiet --no-deps --dest "$kit/wheels" \
        nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
    for wheel in "$kit"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$kit"; done
    chmod +x "$toolkit"/bin/* "$toolkit"/nvvm/bin/*
    ln -sfn lib "$toolkit/lib64"
    # Without a libcudart.so beside it the static one is linked.
    ln -sf libcudart_static.a "$toolkit/lib/libcudart.a"
}

# stub NAME SONAME MODULE: a library with every function of the crate's module, and no code.
stub() {
    local source=$toolkit/lib/stubs/$1.c
    grep -ohE 'pub unsafe fn [A-Za-z0-9_]+' "$bindings/$3/sys/mod.rs" | awk '{print $4}' | sort -u |
        awk '{print "void " $1 "(void){__builtin_trap();}"}' > "$source"
    gcc -shared -fPIC -O1 -w -fno-builtin -nostdlib "-Wl,-soname,$2" \
        -o "$toolkit/lib/stubs/lib$1.so" "$source"
}

[ -x "$toolkit/bin/nvcc" ] || fetch_compiler
cargo fetch --locked --quiet
version=$(sed -n '/^name = "cudarc"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
bindings=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"cudarc-$version"/src | tail -1)
mkdir -p "$toolkit/lib/stubs"
stub cuda libcuda.so.1 driver
stub cublas libcublas.so.13 cublas
stub cublasLt libcublasLt.so.13 cublaslt
stub curand libcurand.so.10 curand
stub nvrtc libnvrtc.so.13 nvrtc

export CUDA_HOME=$toolkit CUDA_PATH=$toolkit NVCC=$toolkit/bin/nvcc PATH=$toolkit/bin:$PATH
export LIBRARY_PATH=$toolkit/lib:$toolkit/lib/stubs
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CUDARC_CUDA_VERSION=13000
cargo build --locked --workspace --features layra-worker/cuda --bin layra-worker
binary=$CARGO_TARGET_DIR/debug/layra-worker
mkdir -p dist
strip -o dist/layra-worker-cuda "$binary"
echo "dist/layra-worker-cuda: $(stat -c %s dist/layra-worker-cuda) bytes; needs:"
readelf --dynamic "$binary" | sed -n 's/.*Shared library: \[\(.*\)\]/  \1/p'
