#!/usr/bin/env bash
# Makes a virtual environment whose CuPy runs on the CPU:  tests/cuda_on_cpu/setup.sh FOLDER
# Needs Python 3.11 or later, g++ and x86-64 Linux. Takes about half a minute.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:?"usage: setup.sh FOLDER"}
cupy=14.2.0
if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "the harness runs on x86-64 Linux only, this is $(uname -sm)" >&2
  exit 1
fi

"${PYTHON:-python3}" -m venv "$venv"
venv=$(cd "$venv" && pwd)
python=$venv/bin/python
"$python" -m pip install --quiet --no-compile --disable-pip-version-check -r "$here/requirements.txt"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
nvidia=$site/nvidia/cu13

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# CuPy's runtime module holds NVIDIA's runtime, which needs a driver. It is the one that is built anew.
CUPY_INSTALL_USE_STUB=1 "$python" -m pip download --quiet --disable-pip-version-check \
  --no-deps --no-build-isolation --no-binary cupy --dest "$work" "cupy==$cupy" &
download=$!

# The device: driver, runtime and NVRTC in one library.
home=$venv/cuda_on_cpu
mkdir -p "$home/include"
cp "$here"/native/{cuda_on_cpu,grid}.h "$home/include/"
ln -sfn "$nvidia/include" "$home/include/nvidia"
ln -sfn "$site/cupy/_core/include/cupy/_cccl/libcudacxx" "$home/include/libcudacxx"
compile=(g++ -std=c++17 -O2 -fPIC -pthread "-I$nvidia/include")
library() {
  local objects=() jobs=()
  for source in "$here"/native/*.cpp; do
    local object="$work/$(basename "$source").o"
    "${compile[@]}" -Wall -Wextra -Wno-unused-parameter -DCOC_PYTHON="\"$python\"" \
      -DCOC_COMPILER="\"$here/src/cuda_on_cpu/compiler.py\"" -c "$source" -o "$object" &
    jobs+=($!)
    objects+=("$object")
  done
  for job in "${jobs[@]}"; do wait "$job"; done
  "${compile[@]}" -shared "${objects[@]}" -o "$home/libcuda.so.1" -Wl,-soname,libcuda.so.1 -ldl
}
library
ln -sfn "$home/libcuda.so.1" "$nvidia/lib/libnvrtc.so.13"

wait "$download"
tar xzf "$work/cupy-$cupy.tar.gz" -C "$work"
cd "$work/cupy-$cupy"
cat > cythonize.py <<'PYTHON'
from Cython.Build import cythonize
from setuptools import Extension

module = "cupy_backends.cuda.api.runtime"
cythonize(
    [Extension(module, [module.replace(".", "/") + ".pyx"], language="c++")],
    compile_time_env={
        "CUPY_USE_CUDA_PYTHON": False,
        "CUPY_CUFFT_STATIC": False,
        "CUPY_CYTHON_VERSION": "3.2.4",
        "CUPY_CUDA_VERSION": 13020,
        "CUPY_HIP_VERSION": 0,
    },
    language_level=3,
    compiler_directives={"embedsignature": True},
    quiet=True,
)
PYTHON
"$python" cythonize.py > cython.log 2>&1 || { cat cython.log >&2; exit 1; }
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
g++ -std=c++17 -O1 -fPIC -shared -w -DCUPY_CACHE_KEY=1 "-I$nvidia/include" "-I$headers" -I. \
  cupy_backends/cuda/api/runtime.cpp "$home/libcuda.so.1" \
  -Wl,-rpath,'$ORIGIN/../../../../../../cuda_on_cpu' \
  -o "$site/cupy_backends/cuda/api/runtime$suffix"

"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
  --editable "$here/../.."

# What every kernel includes, compiled once.
PYTHONPATH="$here/src" "$python" -m cuda_on_cpu.precompile

# Every Python of the environment sees the fake device.
echo "$here/src" > "$site/cuda_on_cpu.pth"
echo "import cuda_on_cpu.environment" >> "$site/cuda_on_cpu.pth"
cd "$venv"
"$python" -c "import cupy; print(cupy.cuda.runtime.getDeviceProperties(0)['name'].decode())"
