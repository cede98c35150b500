import assert from 'node:assert/strict';
import { generateInputs } from '../../../cli/data/generate-inputs.js';
import { modelInputs } from '../../../cli/data/model-inputs.js';
import { type TensorValue, tensorFrom, toNumbers } from '../../../cli/data/tensor.js';
import { openSession } from '../../../cli/runtime/session.js';
import { downstreamOf, partOf } from '../../../cli/tune/graph-part.js';
import { headErrors, withHeads } from '../../../cli/tune/heads.js';
import { expose } from '../../../cli/validation/replacement.js';
import { sliceModel } from '../../../cli/validation/slice-model.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { findSites } from '../../../rewriter/find-sites.js';
import { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import type { AttentionSite, Layout } from '../../../rewriter/site.js';
import { tinyTransformer } from '../tiny-transformer.js';

async function run(bytes: Uint8Array, feeds: ReadonlyMap<string, TensorValue>, names: readonly string[]) {
  const session = await openSession({ bytes, folder: '.' });
  try {
    return await session.run(feeds, names);
  } finally {
    await session.release();
  }
}

describe('parts of models', () => {
  for (const causal of [false, true]) {
    it(`compute what the whole computes, ${causal ? 'causal' : 'with a mask'}`, async () => {
      const options = causal ? { causal } : { mask: DataType.INT64 as const };
      const model = decodeModel(tinyTransformer({ layers: 3, ...options }).model);
      const feeds = generateInputs(modelInputs(model), { length: 40, batch: 2, padded: true, seed: 3 });
      const { main } = new ModelGraph(model);
      const [, site] = findSites(new ModelGraph(model)).sites as readonly AttentionSite[];
      const output = site!.output.value;
      const attention = partOf(
        main,
        site!.nodes.map(({ outputs }) => main.resolve(outputs[0]!.name)!.producer!),
        [output],
      );
      const tail = partOf(main, downstreamOf(main, output), ['logits']);
      const names = [...new Set([output, 'logits', ...attention.inputs, ...tail.inputs])].filter(
        name => !feeds.has(name),
      );
      const values = new Map([...feeds, ...(await run(expose(model, names), feeds, names))]);
      for (const part of [attention, tail]) {
        const fed = new Map(part.inputs.map(name => [name, values.get(name)!]));
        const [name] = part.outputs as [string];
        const alone = (await run(sliceModel(model, part, fed), fed, [name])).get(name)!;
        const [expected, actual] = [toNumbers(values.get(name)!), toNumbers(alone)];
        assert.equal(actual.length, expected.length);
        for (let i = 0; i < expected.length; i++) assert.ok(Math.abs(actual[i]! - expected[i]!) < 1e-4);
      }
      assert.ok(tail.nodes.size < main.nodes.length - attention.nodes.size);
    });
  }
});

describe('heads of a site', () => {
  const [B, H, N, D] = [2, 3, 5, 4];
  /** Layouts, and which head an element belongs to by its place along the axes. */
  const layouts: readonly [Layout, readonly number[], (place: readonly number[]) => number][] = [
    ['BHND', [B, H, N, D], ([, h]) => h!],
    ['BHDN', [B, H, D, N], ([, h]) => h!],
    ['BNHD', [B, N, H, D], ([, , h]) => h!],
    ['BN(HD)', [B, N, H * D], ([, , x]) => Math.floor(x! / D)],
    ['B(HD)N', [B, H * D, N], ([, x]) => Math.floor(x! / D)],
    ['NB(HD)', [N, B, H * D], ([, , x]) => Math.floor(x! / D)],
    ['N(BH)D', [N, B * H, D], ([, x]) => x! % H],
    ['(BH)ND', [B * H, N, D], ([x]) => x! % H],
  ];
  const placeOf = (element: number, dims: readonly number[]) =>
    dims.map((dim, a) => Math.floor(element / dims.slice(a + 1).reduce((x, y) => x * y, 1)) % dim);

  for (const [layout, dims, headOf] of layouts) {
    it(`are told apart in ${layout}`, () => {
      const random = new SeededRandom(1);
      const site = { queryHeads: H, output: { layout } } as AttentionSite;
      const size = B * H * N * D;
      const exact = tensorFrom('float32', dims, random.normals(size));
      const other = tensorFrom('float32', dims, random.normals(size));
      const whole = headErrors(site, exact, other);
      for (let head = 0; head < H; head++) {
        const mixed = withHeads(site, exact, other, [head]);
        for (let i = 0; i < size; i++) {
          const source = headOf(placeOf(i, dims)) === head ? other : exact;
          assert.equal(toNumbers(mixed)[i], toNumbers(source)[i]);
        }
        const errors = headErrors(site, exact, mixed);
        assert.deepEqual(
          errors,
          whole.map((error, h) => (h === head ? error : 0)),
        );
      }
    });
  }
});
