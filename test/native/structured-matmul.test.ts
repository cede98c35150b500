import * as runtime from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { STRUCTURED_MATMUL_CASES } from '../../custom-ops/structured-matmul/cases.js';
import type { Structure } from '../../custom-ops/structured-matmul/parameters.js';
import {
  blockTensorTrain,
  butterfly,
  kronecker,
  multiLevelLowRank,
} from '../../custom-ops/structured-matmul/structures.js';
import { checkCase } from '../custom-ops/structured-matmul/check-case.js';
import { nativeBuild } from './native-build.js';

const RANDOM_CASES = 60;

/** Ragged sizes of any kind. */
function randomStructure(random: SeededRandom): Structure {
  const size = (most: number) => 1 + random.below(most);
  // Pieces that fill vectors, some of the time.
  const q = random.below(3) === 0 ? 16 : size(9);
  const [p, d, a] = [size(9), size(40), size(40)];
  switch (random.below(4)) {
    case 0:
      return blockTensorTrain(p * d, q * a, p, q, size(4));
    case 1:
      return kronecker(p * d, q * a, p, q);
    case 2:
      return butterfly(2 ** size(9));
    default:
      return multiLevelLowRank(
        8 * d,
        8 * a,
        Array.from({ length: size(4) }, () => size(20)),
      );
  }
}

describe('StructuredMatMul on the CPU', () => {
  before(function () {
    this.timeout(600_000);
    nativeBuild(this);
  });

  for (const shared of STRUCTURED_MATMUL_CASES) {
    it(`agrees with the reference: ${shared.name}`, () => checkCase(runtime, shared, { bare: true }));
    it(`agrees with factors packed beforehand: ${shared.name}`, () =>
      checkCase(runtime, shared, { bare: true, stored: true }));
  }

  it(`agrees on ${RANDOM_CASES} random ragged cases`, async () => {
    const random = new SeededRandom(7);
    for (let n = 0; n < RANDOM_CASES; n++) {
      const [structure, leading] = [randomStructure(random), [random.below(200)]];
      const float16 = random.below(4) === 0;
      const options = { bare: true, stored: random.below(2) === 0 };
      await checkCase(runtime, { name: `random ${n}`, structure, leading, float16 }, options);
    }
  });
});
