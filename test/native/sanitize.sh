#!/usr/bin/env bash
# Runs all cases of the CPU kernel in builds with AddressSanitizer and UndefinedBehaviorSanitizer, for every
# instruction set, and with ThreadSanitizer. Usage, after `npm run build`: test/native/sanitize.sh [DIST]
set -euo pipefail
cd "$(dirname "$0")/../.."
dist=${1:-dist}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
node "$dist/test/custom-ops/multipole-attention/dump-cases.js" "$folder/cases.bin"

build() {
  "${CXX:-c++}" -std=c++17 -O1 -g -ffp-contract=fast -Wall -Wextra -pthread "$@" \
    test/native/run-cases.cc custom-ops/native/simd/*.cc -o "$folder/run-cases"
}

build -fsanitize=address,undefined -fno-sanitize-recover=all
for simd in avx512 avx2 baseline; do
  echo "AddressSanitizer, UndefinedBehaviorSanitizer, $simd"
  ONNX_REWRITE_SIMD=$simd "$folder/run-cases" "$folder/cases.bin" 4
done

build -fsanitize=thread
echo "ThreadSanitizer"
"$folder/run-cases" "$folder/cases.bin" 4
