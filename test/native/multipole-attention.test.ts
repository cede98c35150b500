import assert from 'node:assert/strict';
import { caseInputs, MULTIPOLE_CASES } from '../../custom-ops/multipole-attention/cases.js';
import { defaultParameters, type MultipoleParameters } from '../../custom-ops/multipole-attention/parameters.js';
import { type MultipoleInputs, multipoleAttention } from '../../custom-ops/multipole-attention/reference.js';
import type { Tensor } from '../../custom-ops/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { nativeBuild } from './native-build.js';
import { runKernel } from './traced-attention.js';

const SINGLE = 1e-5;
const HALF = 2e-3;

/** Relative error as a whole, and every element against the size of the whole. */
function assertClose(actual: Float32Array, expected: Float32Array, tolerance: number, what: string): void {
  assert.equal(actual.length, expected.length, what);
  let difference = 0;
  let norm = 0;
  let largest = 0;
  let furthest = 0;
  for (let n = 0; n < expected.length; n++) {
    const [a, e] = [actual[n]!, expected[n]!];
    if (a === e) {
      if (Number.isFinite(e)) norm += e * e;
      continue;
    }
    assert.ok(Number.isFinite(a) && Number.isFinite(e), `${what}: element ${n} is ${a}, not ${e}`);
    difference += (a - e) ** 2;
    norm += e * e;
    largest = Math.max(largest, Math.abs(e));
    furthest = Math.max(furthest, Math.abs(a - e));
  }
  assert.ok(difference <= tolerance ** 2 * norm, `${what}: relative error ${Math.sqrt(difference / norm)}`);
  assert.ok(furthest <= 10 * tolerance * largest, `${what}: an element is off by ${furthest} of ${largest}`);
}

async function compare(
  inputs: MultipoleInputs,
  parameters: MultipoleParameters,
  what: string,
  threads = 1,
): Promise<void> {
  const actual = await runKernel(inputs, parameters, { threads });
  const expected = multipoleAttention(inputs, parameters, actual.choices);
  assertClose(actual.output.data, expected.output.data, SINGLE, `${what}, output`);
  assertClose(actual.lse.data, expected.lse.data, SINGLE, `${what}, lse`);
}

describe('MultipoleAttention on the CPU', () => {
  before(function () {
    this.timeout(300_000);
    nativeBuild(this);
  });

  describe('equals the reference under equal choices', () => {
    for (const shared of MULTIPOLE_CASES.filter(({ float16 }) => !float16)) {
      it(shared.name, () => compare(caseInputs(shared), shared.parameters, shared.name, 2));
    }
  });
});
