import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { type TensorValue, toNumbers } from '../../cli/data/tensor.js';
import { expose } from '../../cli/validation/replacement.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { findSites } from '../../rewriter/find-sites.js';
import { ModelGraph } from '../../rewriter/graph/model-graph.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { isAttention, type Operand } from '../../rewriter/site.js';
import { firstRowEmpty, fixtureInputs } from './fixture-inputs.js';
import { type ExpectedSite, fixtures } from './fixtures.js';
import { FixtureSession } from './run-model.js';

/** How far a mean may be off, by the rounding of the type that it is computed in. */
const ROUNDING: Readonly<Record<string, number>> = { float32: 1e-5, float16: 4e-3 };
const SIZES = { batch: 2, sequence: 9, encoder_sequence: 7, past_sequence: 5 };

/** Values by head, row and channel. */
type Heads = readonly (readonly Float64Array[])[];

describe('zoo: rows that see no key', () => {
  const claiming = fixtures().filter(
    ({ sites, not_runnable }) =>
      not_runnable === undefined && sites.some(({ empty_row }) => isClaim(empty_row)),
  );

  it('are claimed to give zeros, the mean of the values, and NaN', () => {
    const claims = claiming.flatMap(({ sites }) => sites.map(({ empty_row }) => empty_row));
    for (const claim of ['zeros', 'mean', 'nan'] as const) assert.ok(claims.includes(claim), claim);
  });

  for (const fixture of claiming) {
    it(fixture.name, async () => {
      const original = readFileSync(fixture.file);
      const batch = Math.min(SIZES.batch, fixture.most_batches ?? SIZES.batch);
      const inputs = fixtureInputs(fixture, { ...SIZES, batch }, firstRowEmpty, true, new SeededRandom(3));
      // Values inside subgraphs cannot be looked at from outside.
      const sites = findSites(new ModelGraph(decodeModel(original)))
        .sites.filter(isAttention)
        .filter(({ emptyRow, graphPath }) => isClaim(emptyRow) && graphPath.length === 0);
      const inner = await outputsOf(
        expose(
          decodeModel(original),
          sites.flatMap(({ value, output }) => [value.value, output.value]),
        ),
        inputs,
      );
      for (const { id, value, output, queryHeads, kvHeads, emptyRow, dtype } of sites) {
        const values = firstBatch(inner, value, kvHeads!);
        const rows = firstBatch(inner, output, queryHeads!);
        assert.equal(whatRowsAre(rows, values, ROUNDING[dtype!]!), emptyRow, id);
      }
      const { model, decisions } = rewriteModel(original, all =>
        decideUniformly(all, { operator: multipoleAttention, settings: {}, selects: () => true }, 0),
      );
      const replaced = decisions.flatMap(({ site, replacement }) => (replacement === null ? [] : [site]));
      const visible = sites.filter(({ id }) => replaced.some(site => site.id === id));
      const after = await outputsOf(
        expose(
          decodeModel(model),
          visible.map(({ output }) => output.value),
        ),
        inputs,
      );
      for (const { id, output, queryHeads } of visible) {
        assert.ok(firstBatch(after, output, queryHeads!).every(areZeros), `${id} gives zeros once replaced`);
      }
    });
  }
});

function isClaim(row: ExpectedSite['empty_row']): boolean {
  return row === 'zeros' || row === 'mean' || row === 'nan';
}

async function outputsOf(
  model: Uint8Array,
  inputs: ReadonlyMap<string, TensorValue>,
): Promise<ReadonlyMap<string, TensorValue>> {
  const session = await FixtureSession.open(model);
  const outputs = await session.run(inputs);
  await session.release();
  return outputs;
}

/** An operand's values in the first batch row. */
function firstBatch(
  outputs: ReadonlyMap<string, TensorValue>,
  { value, layout }: Operand,
  heads: number,
): Heads {
  const tensor = outputs.get(value)!;
  const elements = toNumbers(tensor);
  const { dims } = tensor;
  const headsFirst = layout === 'BHND';
  assert.ok(headsFirst || layout === 'BNHD' || layout === 'BN(HD)', `layout ${layout}`);
  const rows = dims[headsFirst ? 2 : 1]!;
  const channels = layout === 'BN(HD)' ? dims[2]! / heads : dims[3]!;
  const [headStride, rowStride] = headsFirst ? [rows * channels, channels] : [channels, heads * channels];
  return Array.from({ length: heads }, (_, h) =>
    Array.from({ length: rows }, (_, i) =>
      Float64Array.from({ length: channels }, (_, c) => elements[h * headStride + i * rowStride + c]!),
    ),
  );
}

/** What rows without keys hold, given all values; each key/value head serves as many query heads. */
function whatRowsAre(rows: Heads, values: Heads, rounding: number): string {
  if (rows.flat().every(row => row.every(Number.isNaN))) return 'nan';
  if (rows.every(areZeros)) return 'zeros';
  const share = rows.length / values.length;
  const isMean = rows.every((head, h) => {
    const keys = values[Math.floor(h / share)]!;
    return head.every(row =>
      row.every((element, c) => {
        const mean = keys.reduce((sum, key) => sum + key[c]!, 0) / keys.length;
        return Math.abs(element - mean) <= rounding;
      }),
    );
  });
  return isMean ? 'mean' : 'something else';
}

function areZeros(head: readonly Float64Array[]): boolean {
  return head.every(row => row.every(element => element === 0));
}
