#!/usr/bin/env bash
# Compiles the library for 64-bit Arm and runs fuzz.cpp under an emulator:
#
#     neon.sh FOLDER SECONDS
#
# Needs a cross compiler and qemu-user: g++-aarch64-linux-gnu and qemu-user-static on Debian.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
aarch64-linux-gnu-g++ -std=c++20 -O2 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi \
  -DCTCX_CPU_VARIANT=baseline -DCTCX_CPU_HAS_baseline -I "$root/include" \
  "$root"/src/*.cpp "$root/tests/native/fuzz.cpp" -pthread -static -o "$1/fuzz"
qemu-aarch64-static "$1/fuzz" "$2" 7
