import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { type TensorValue, toNumbers } from '../../cli/data/tensor.js';
import { localAttention } from '../../custom-ops/local-attention/operator.js';
import { multiLevelAttention } from '../../custom-ops/multi-level-attention/operator.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import type { AttributeValue } from '../../custom-ops/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { isAttention, type MaskKind, type Site } from '../../rewriter/site.js';
import { randomRotation } from '../custom-ops/random-rotation.js';
import { fixtureInputs, type Padding, raggedPadding, realKeys, type Sizes } from './fixture-inputs.js';
import { type Fixture, fixtures } from './fixtures.js';
import { FixtureSession } from './run-model.js';

/** Ragged: no size is a multiple of another or of any block. */
const SIZES: readonly Sizes[] = [
  { batch: 4, sequence: 19, encoder_sequence: 11, past_sequence: 6 },
  { batch: 1, sequence: 7, encoder_sequence: 13, past_sequence: 1 },
];
/** Largest difference allowed, over the largest value of the output: a few units in the last place. */
const ROUNDING = { float32: 5e-6, float16: 4e-3 } as const;

const EXACT = { retrieve: -1 };
/** Far from exact wherever it is not exact on purpose. */
const COARSE = { segment: 2, window: 0, key_clusters: 1, query_clusters: 1, retrieve: 0 };

describe('zoo: exact attention in place of every site', () => {
  for (const fixture of fixtures().filter(({ not_runnable }) => not_runnable === undefined)) {
    it(fixture.name, async () => {
      const { original, model, replaced } = rewrite(fixture, EXACT, () => true);
      assert.ok(replaced >= fixture.sites.filter(({ replaceable }) => replaceable).length);
      if (replaced === 0) assert.ok(original.equals(model), 'without a replacement the model stays as it is');
      else await assertSameOutputs(fixture, original, model);
    });
  }
});

describe('zoo: rotated heads in place of every site that can be calibrated', () => {
  for (const fixture of fixtures().filter(({ not_runnable }) => not_runnable === undefined)) {
    it(fixture.name, async () => {
      const { original, model, replaced } = rotate(fixture);
      if (replaced === 0) assert.ok(original.equals(model), 'without a replacement the model stays as it is');
      else await assertSameOutputs(fixture, original, model);
    });
  }
});

describe('zoo: steps of decoding stay exact', () => {
  for (const fixture of fixtures().filter(({ sites }) => sites.some(({ kind }) => kind === 'cached'))) {
    it(fixture.name, async () => {
      const { original, model, replaced } = rewrite(fixture, COARSE, ({ kind }) => kind === 'cached');
      const isCausal = fixture.sites.some(({ kind, causal }) => kind === 'cached' && causal);
      assert.equal(replaced > 0, isCausal);
      if (isCausal) await assertSameOutputs(fixture, original, model);
    });
  }
});

/** Every site that `selects` takes replaced where it can be, whatever the number of keys. */
function rewrite(
  fixture: Fixture,
  settings: Readonly<Record<string, AttributeValue>>,
  selects: (site: Site) => boolean,
) {
  const original = readFileSync(fixture.file);
  const { model, decisions } = rewriteModel(original, sites => {
    const chosen = new Set(sites.filter(selects).map(({ id }) => id));
    const choice = {
      operator: multipoleAttention,
      settings,
      fusions: [localAttention],
      selects: (id: string) => chosen.has(id),
    };
    return decideUniformly(sites, choice, 0);
  });
  return { original, model, replaced: decisions.filter(({ replacement }) => replacement !== null).length };
}

/** Every site by multi-level attention with one block around all tokens: any rotation leaves it exact. */
function rotate(fixture: Fixture) {
  const original = readFileSync(fixture.file);
  const random = SeededRandom.named(fixture.name);
  const { model, decisions } = rewriteModel(original, sites =>
    decideUniformly(
      sites.filter(isAttention),
      { operator: multiLevelAttention, settings: { block: 64 }, selects: () => true },
      null,
    ).map(decision => {
      const { replacement, site } = decision;
      if (replacement === null) return decision;
      const rotation = randomRotation(site.kvHeads!, site.headDim!, random);
      return { ...decision, replacement: { ...replacement, rotation: { ...rotation, place: 'weights' } } };
    }),
  );
  return { original, model, replaced: decisions.filter(({ replacement }) => replacement !== null).length };
}

async function assertSameOutputs(fixture: Fixture, original: Uint8Array, model: Uint8Array): Promise<void> {
  const before = await FixtureSession.open(original);
  const after = await FixtureSession.open(model);
  for (const { sizes, flag } of runs(fixture)) {
    const inputs = fixtureInputs(fixture, sizes, raggedPadding, flag, new SeededRandom(sizes.sequence));
    const [expected, actual] = [await before.run(inputs), await after.run(inputs)];
    for (const [name, output] of expected) {
      const compared = rowsWithKeys(fixture, sizes, raggedPadding, output.dims);
      const what = `${name} at ${JSON.stringify(sizes)}`;
      assertClose(output, actual.get(name)!, compared, roundingOf(fixture), what);
    }
  }
  await Promise.all([before.release(), after.release()]);
}

/** Float16 anywhere inside rounds all that follows. */
function roundingOf({ sites }: Fixture): number {
  return ROUNDING[sites.some(({ dtype }) => dtype === 'float16') ? 'float16' : 'float32'];
}

/** Sizes and switches to run a fixture with. */
function runs(fixture: Fixture): { readonly sizes: Sizes; readonly flag: boolean }[] {
  const flags = fixture.inputs.some(({ fill }) => fill === 'flag') ? [false, true] : [true];
  const sizes =
    fixture.sizes === undefined
      ? SIZES.map(size => ({ ...size, batch: Math.min(size.batch, fixture.most_batches ?? size.batch) }))
      : [fixture.sizes];
  // A merged decoder that does not use its cache is given an empty one.
  const isMerged = flags.length > 1 && fixture.inputs.some(({ dims }) => dims.includes('past_sequence'));
  return flags.flatMap(flag =>
    sizes.map(size => ({ flag, sizes: isMerged && !flag ? { ...size, past_sequence: 0 } : size })),
  );
}

/**
 * Which elements of an output come from query rows that see a key: all of them but in causal models with
 * padding at the start, whose first rows see none, and where windows are limited, of which only rows of real
 * tokens are compared. Outputs are [batch, sequence, channels] or
 * [batch, heads, sequence, channels].
 */
function rowsWithKeys(
  fixture: Fixture,
  sizes: Sizes,
  padding: Padding,
  dims: readonly number[],
): (element: number) => boolean {
  const has = (kind: MaskKind) => fixture.sites.some(({ mask }) => mask === kind);
  if (!has('causal+padding') && !has('sliding-window')) return () => true;
  const isReal = realKeys(fixture, sizes, padding);
  const past = fixture.inputs.some(input => input.dims.includes('past_sequence')) ? sizes.past_sequence : 0;
  const rows = dims.at(-2)!;
  const channels = dims.at(-1)!;
  const perBatch = dims.slice(1).reduce((product, dim) => product * dim, 1);
  const first = Array.from({ length: sizes.batch }, (_, b) => {
    let key = 0;
    while (!isReal(b, key)) key++;
    return key - past;
  });
  return element => {
    const [row, b] = [Math.floor(element / channels) % rows, Math.floor(element / perBatch)];
    return has('sliding-window') ? isReal(b, row + past) : row >= first[b]!;
  };
}

function assertClose(
  expected: TensorValue,
  actual: TensorValue,
  isCompared: (element: number) => boolean,
  rounding: number,
  what: string,
): void {
  assert.deepEqual(actual.dims, expected.dims, what);
  assert.equal(actual.type, expected.type, what);
  const [left, right] = [toNumbers(expected), toNumbers(actual)];
  let largest = 0;
  let difference = 0;
  let compared = 0;
  for (let i = 0; i < left.length; i++) {
    if (!isCompared(i)) continue;
    compared++;
    largest = Math.max(largest, Math.abs(left[i]!));
    const distance = Math.abs(left[i]! - right[i]!);
    if (!(distance <= difference)) difference = distance;
  }
  assert.ok(compared > left.length / 2, `${what}: most rows are compared`);
  assert.ok(difference <= rounding * largest, `${what}: differs by ${difference}, largest value ${largest}`);
}
