#!/usr/bin/env bash
# Runs the CPU kernels under sanitizers: the cases of MultipoleAttention, which does without ONNX Runtime, with
# AddressSanitizer and UndefinedBehaviorSanitizer for every instruction set, and with ThreadSanitizer; then the tests of
# all other operators, in a library of operators with the first two.
# Usage, after `npm run build` and `npm run build:native`: test/native/sanitize.sh [DIST]
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

echo "AddressSanitizer, UndefinedBehaviorSanitizer, operators in ONNX Runtime"
sanitizers=(-fsanitize=address,undefined -fno-sanitize-recover=all)
(
  cd custom-ops/native
  mapfile -t sources < <(node sources.cjs)
  "${CXX:-c++}" -std=c++17 -O1 -g -ffp-contract=fast -fPIC -shared "${sanitizers[@]}" "${sources[@]}" \
    -o "$folder/libonnxrewrite_ops.so" -ldl -lpthread
  cp build/Release/onnxrewrite.node "$folder"
)
# Node and ONNX Runtime know nothing of sanitizers: the runtime library has to be there first, and what they never give
# back is theirs.
runtime=$("${CXX:-c++}" -print-file-name=libasan.so)
for operator in elementwise-attention multi-level-attention bilinear-attention structured-matmul; do
  LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 ONNX_REWRITE_NATIVE=$folder \
    node node_modules/mocha/bin/mocha.js --no-config --timeout 600000 --reporter dot \
    "$dist/test/native/$operator.test.js"
done
