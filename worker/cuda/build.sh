#!/bin/bash
# Builds layra-worker with the feature `cuda` on a machine without a CUDA toolkit, driver or GPU.
#
#   worker/cuda/build.sh [KIT]        KIT: where the compiler is kept (default: target/cuda-kit)
#
# Needs python3 with pip, g++, binutils and cargo, and comes after `cargo testbed dist`. The compiler, cuBLAS and cuRAND come from the package index,
# pinned in worker/cuda/requirements.txt; the libraries that the binary is linked to are stubs with
# the right names, made here from the binding crate's list of functions. Leaves the binary as
# dist/layra-worker-cuda and the libraries that it needs at run time in dist/cuda, for
# worker/Containerfile.cuda. The driver's libcuda.so.1 comes with the node.
#
# CUDA_COMPUTE_CAP  the GPU's compute capability without its point (default: 90, Hopper).
# CARGO_TARGET_DIR  where cargo builds (default: target/cuda).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
kit=$(realpath -m "${1:-target/cuda-kit}")
toolkit=$kit/nvidia/cu13
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/cuda}

fetch() {
    mkdir -p "$kit/wheels"
    python3 -m pip download --quiet --no-deps --require-hashes --dest "$kit/wheels" \
        --requirement worker/cuda/requirements.txt
    for wheel in "$kit"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$kit"; done
    chmod +x "$toolkit"/bin/* "$toolkit"/nvvm/bin/*
    ln -sfn lib "$toolkit/lib64"
    # Without a libcudart.so next to it the static one is linked.
    ln -sf libcudart_static.a "$toolkit/lib/libcudart.a"
    touch "$kit/complete"
}

# stub NAME SONAME MODULE: a library with every function of the crate's module, and no code.
stub() {
    local source=$toolkit/lib/stubs/$1.c
    grep -ohE 'pub unsafe fn [A-Za-z0-9_]+' "$bindings/$3/sys/mod.rs" | awk '{print $4}' | sort -u |
        awk '{print "void " $1 "(void){__builtin_trap();}"}' > "$source"
    gcc -shared -fPIC -O1 -w -fno-builtin -nostdlib "-Wl,-soname,$2" \
        -o "$toolkit/lib/stubs/lib$1.so" "$source"
}

[ -e "$kit/complete" ] || fetch
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
cargo build --release --locked --workspace --features layra-worker/cuda --bin layra-worker
binary=$CARGO_TARGET_DIR/release/layra-worker
mkdir -p dist/cuda
# The licences, and the crates of the binary in the binary, as `cargo testbed dist` has them.
cargo testbed bill layra-worker --features layra-worker/cuda --folder dist/doc/layra-worker-cuda \
    --section "$CARGO_TARGET_DIR/crates"
objcopy --strip-all --add-section .dep-v0="$CARGO_TARGET_DIR/crates" "$binary" dist/layra-worker-cuda
mkdir -p dist/doc/cuda
for wheel in "$kit"/*cublas*.dist-info "$kit"/*curand*.dist-info; do
    find "$wheel" -iname 'licen[cs]e*' -type f -exec cp {} "dist/doc/cuda/$(basename "$wheel").txt" \;
done
for library in libcublas.so.13 libcublasLt.so.13 libcurand.so.10; do
    cp --dereference "$toolkit/lib/$library" dist/cuda/
done
echo "dist/layra-worker-cuda: $(stat -c %s dist/layra-worker-cuda) bytes; needs:"
readelf --dynamic "$binary" | sed -n 's/.*Shared library: \[\(.*\)\]/  \1/p'
