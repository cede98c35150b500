import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { OPERATORS } from '../../custom-ops/index.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';

/** A model of plain operators that a custom operator may take the place of: `x` [batch, sequence, width] to `y`. */
export interface FusionFixture {
  readonly form: string;
  readonly exporter: string;
  readonly bytes: Buffer;
}

export type Sizes = readonly [batch: number, sequence: number];

/** The models in a folder of the zoo, which are named FORM-EXPORTER.onnx. */
export function fusionFixtures(name: string): readonly FusionFixture[] {
  const folder = fileURLToPath(new URL(`../../../test/zoo/${name}/`, import.meta.url));
  return readdirSync(folder)
    .filter(file => file.endsWith('.onnx'))
    .map(file => {
      const [, form, exporter] = /^(.*)-(legacy\d+|dynamo\d+)\.onnx$/.exec(file)!;
      return { form: form!, exporter: exporter!, bytes: readFileSync(folder + file) };
    });
}

/** The model with all that operators compute exactly replaced, and the types of its nodes. */
export function fused(bytes: Uint8Array) {
  const choice = { operator: multipoleAttention, settings: {}, selects: () => true, fusions: OPERATORS };
  const { model, decisions } = rewriteModel(bytes, sites => decideUniformly(sites, choice, null));
  return { model, decisions, types: decodeModel(model).graph.nodes.map(({ opType }) => opType) };
}

/** Runs both models on random inputs of these sizes; every element of `y` has to be the same up to rounding. */
export async function assertSameResults(
  original: Uint8Array,
  rewritten: Uint8Array,
  width: number,
  sizes: readonly Sizes[],
): Promise<void> {
  for (const size of sizes) {
    const [before, after] = [await run(original, width, size), await run(rewritten, width, size)];
    const largest = before.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    for (const [n, x] of before.entries()) {
      assert.ok(Math.abs(after[n]! - x) <= 1e-5 * largest, `${n}: ${after[n]}, not ${x}; largest ${largest}`);
    }
  }
}

async function run(model: Uint8Array, width: number, [batch, sequence]: Sizes): Promise<Float32Array> {
  const random = new SeededRandom(sequence);
  const x = new Tensor('float32', random.normals(batch * sequence * width), [batch, sequence, width]);
  // The first key stays, so that every row sees one.
  const visible = Uint8Array.from({ length: batch * sequence }, (_, n) =>
    Number(n % sequence === 0 || random.uniform() < 0.6),
  );
  const session = await InferenceSession.create(model, { logSeverityLevel: 3 });
  try {
    const mask = session.inputNames.includes('mask')
      ? { mask: new Tensor('bool', visible, [batch, sequence]) }
      : {};
    return (await session.run({ x, ...mask })).y!.data as Float32Array;
  } finally {
    await session.release();
  }
}
