#!/bin/sh
# The operators' tests under AddressSanitizer (g++; a build of its own in .cache/sanitize, some minutes the first time):
#
#   packages/torch/native/sanitize.sh [test files …]
#
# The add-on is compiled with it, and its runtime is loaded before Node. Leaks are not looked for: Node ends without
# freeing. valgrind knows no AVX-512; MASSIF_MARCH=x86-64-v3 packages/torch/native/sanitize.sh takes the widening path.
set -eu
cd "$(dirname "$0")/../../.."
compiler=${CXX:-g++}
export MASSIF_CACHE="${MASSIF_SANITIZE_CACHE:-$PWD/.cache/sanitize}"
export OMP_WAIT_POLICY=passive
VIRTUAL_ENV=${VIRTUAL_ENV:-$PWD/.venv}
export VIRTUAL_ENV
export CXX="$compiler -fsanitize=address -fno-omit-frame-pointer -g1"
node_modules/.bin/node --input-type=module -e '
  const { ensureAddon, planBuild } = await import(`${process.cwd()}/packages/torch/src/build.ts`);
  const { findTorch } = await import(`${process.cwd()}/packages/torch/src/find.ts`);
  console.error(ensureAddon(planBuild(findTorch()), { onProgress: console.error }));'
[ $# -gt 0 ] || set -- packages/torch/src/fused.test.ts packages/torch/src/attention.test.ts packages/torch/src/narrow.test.ts \
  packages/massif/src/model/packed.test.ts packages/massif/src/model/decode.test.ts packages/massif/src/optim packages/massif/src/train/trainer.test.ts
export ASAN_OPTIONS="detect_leaks=0:alloc_dealloc_mismatch=0:${ASAN_OPTIONS:-}"
LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so)" \
  exec node_modules/.bin/node node_modules/vitest/vitest.mjs run "$@"
