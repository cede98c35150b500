import {
  BILINEAR_CASES,
  type BilinearCase,
  caseInputs,
  levelParameters,
  trainParameters,
} from '../../custom-ops/bilinear-attention/cases.js';
import { type BilinearParameters, NORMALISATIONS } from '../../custom-ops/bilinear-attention/parameters.js';
import type { BilinearInputs } from '../../custom-ops/bilinear-attention/reference.js';
import * as runtime from '../../custom-ops/runtime/node/index.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { assertClose, SINGLE } from '../comparison.js';
import { checkCase, runNode } from '../custom-ops/bilinear-attention/check-case.js';
import { nativeBuild } from './native-build.js';

const RANDOM_CASES = 40;

/** Ragged sizes of both kinds. */
function randomParameters(random: SeededRandom): BilinearParameters {
  const size = (most: number) => 1 + random.below(most);
  const changes = {
    causal: random.below(2) === 0,
    normalisation: NORMALISATIONS[random.below(3)]!,
  } as const;
  if (random.below(2) === 0) {
    const [p, q] = [size(5), size(5)];
    return trainParameters(size(3), p * q * size(3), [p, q, size(3)], changes);
  }
  const ranks = Array.from({ length: size(4) }, () => size(9));
  return levelParameters(size(4), 2 ** (ranks.length - 1) * size(7), ranks, changes);
}

describe('BilinearAttention on the CPU', () => {
  before(function () {
    this.timeout(600_000);
    nativeBuild(this);
  });

  for (const shared of BILINEAR_CASES) {
    it(`agrees with the reference: ${shared.name}`, () => checkCase(runtime, shared, { bare: true }));
    it(`agrees with weights packed beforehand: ${shared.name}`, () =>
      checkCase(runtime, shared, { bare: true, stored: true }));
  }

  it(`agrees on ${RANDOM_CASES} random ragged cases`, async () => {
    const random = new SeededRandom(11);
    for (let n = 0; n < RANDOM_CASES; n++) {
      const parameters = randomParameters(random);
      const [batch, length, valueDim] = [1 + random.below(2), random.below(150), 1 + random.below(40)];
      const keyMask = (['none', 'random', 'first'] as const)[random.below(3)]!;
      const shape = { batch, length, valueDim, keyMask, gains: random.below(2) === 0, float16: false };
      const options = { bare: true, stored: random.below(2) === 0 };
      await checkCase(runtime, { name: `random ${n}`, parameters, ...shape }, options);
    }
  });

  for (const [what, keyMask, causal] of [
    ['hidden tokens', 'random', false],
    ['later tokens', 'none', true],
  ] as const) {
    it(`keeps what ${what} hold out of the other rows, numbers or not`, async () => {
      for (const each of [trainParameters(2, 32, [4, 8, 1]), levelParameters(2, 32, [6, 3])]) {
        const parameters = { ...each, causal };
        const shape = { batch: 1, length: 150, valueDim: 8, keyMask, gains: true, float16: false };
        const inputs = caseInputs({ name: what, parameters, ...shape } satisfies BilinearCase);
        const kept = (token: number) => (causal ? token < 100 : inputs.keyMask![token] !== 0);
        const before = await runNode(runtime, inputs, parameters, { bare: true });
        const after = await runNode(runtime, spoiled(inputs, kept), parameters, { bare: true });
        const rows = (data: Float32Array) => data.filter((_, at) => kept(Math.floor(at / 8) % 150));
        assertClose(rows(after.data), rows(before.data), SINGLE, 'output');
      }
    });
  }
});

/** One batch row whose tokens and values are no numbers where they are not kept. */
function spoiled(inputs: BilinearInputs, kept: (token: number) => boolean): BilinearInputs {
  const { x, value } = inputs;
  const change = ({ dims, data }: typeof x, filler: number) => {
    const [length, size] = dims.slice(-2) as [number, number];
    return { dims, data: data.map((y, at) => (kept(Math.floor(at / size) % length) ? y : filler)) };
  };
  return { ...inputs, x: change(x, Number.NaN), value: change(value, Number.POSITIVE_INFINITY) };
}
