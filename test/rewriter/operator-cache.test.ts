import assert from 'node:assert/strict';
import { type TensorValue, tensorFrom, toNumbers } from '../../cli/data/tensor.js';
import { localAttention } from '../../custom-ops/local-attention/operator.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import type { AttributeValue, OperatorDefinition } from '../../custom-ops/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { FixtureSession } from '../zoo/run-model.js';
import { Net } from './net.js';

const HEADS = 4;
const KV_HEADS = 2;
const SIZE = 16;
const TABLE = 64;
const EXACT = { retrieve: -1 };
/** Units in the last place of float32 that sums in another order make. */
const ROUNDING = 1e-12;

type Feeds = ReadonlyMap<string, TensorValue>;

/** What a step takes: batch rows, new keys, length of the cache, last key of each row, keys of the longest. */
type Step = readonly [batch: number, rows: number, held: number, last: readonly number[], total: number];

interface Form {
  readonly name: string;
  readonly packed?: boolean;
  /** Rotated channels; left out without positions. */
  readonly rotated?: number;
  readonly interleaved?: boolean;
  readonly positions?: boolean;
  readonly cache?: boolean;
  readonly half?: boolean;
  /** Keys that a token sees, its own included; left out for all. */
  readonly window?: number;
  /** A logit that each row has besides those of its keys: one per head, or zero. */
  readonly sink?: 'by head' | 'zero';
}

/** com.microsoft GroupQueryAttention as model builders lay it out. */
function groupQueryAttention(form: Form): Uint8Array {
  const net = new Net();
  const type = form.half === true ? DataType.FLOAT16 : DataType.FLOAT;
  const operand = (name: string, heads: number) => net.input(name, ['b', 'n', heads * SIZE], type);
  const operands = form.packed
    ? [operand('packed', HEADS + 2 * KV_HEADS), '', '']
    : [operand('query', HEADS), operand('key', KV_HEADS), operand('value', KV_HEADS)];
  const past = ['past_key', 'past_value'].map(name =>
    form.cache === false ? '' : net.input(name, ['b', KV_HEADS, 'p', SIZE], type),
  );
  const lengths = [net.input('last', ['b'], DataType.INT32), net.input('total', [], DataType.INT32)];
  const tables = ['cosines', 'sines'].map(name =>
    form.rotated === undefined ? '' : net.input(name, [TABLE, form.rotated / 2], type),
  );
  const positions = form.positions === true ? net.input('positions', ['b', 'n'], DataType.INT64) : '';
  const sinks = form.sink === 'by head' ? [net.input('sinks', [HEADS], type)] : [];
  const attributes = {
    num_heads: HEADS,
    kv_num_heads: KV_HEADS,
    do_rotary: Number(form.rotated !== undefined),
    rotary_interleaved: Number(form.interleaved === true),
    local_window_size: form.window ?? -1,
    smooth_softmax: Number(form.sink === 'zero'),
  };
  const inputs = [...operands, ...past, ...lengths, ...tables, positions, '', ...sinks];
  net.op('com.microsoft::GroupQueryAttention', inputs, attributes, ['y', 'keys', 'values']);
  net.output('y', ['b', 'n', HEADS * SIZE], type);
  for (const name of ['keys', 'values']) net.output(name, ['b', KV_HEADS, 't', SIZE], type);
  return net.bytes({ opsetImports: { '': 21, 'com.microsoft': 1 }, irVersion: 10 });
}

function feedsOf(form: Form, [batch, rows, held, last, total]: Step): Feeds {
  const random = new SeededRandom(rows + 10 * held);
  const type = form.half === true ? 'float16' : 'float32';
  const normal = (...dims: number[]) => {
    const count = dims.reduce((product, dim) => product * dim, 1);
    return tensorFrom(
      type,
      dims,
      Float64Array.from({ length: count }, () => random.normal()),
    );
  };
  const half = (form.rotated ?? 0) / 2;
  const table = (wave: (angle: number) => number) =>
    tensorFrom(
      type,
      [TABLE, half],
      Float64Array.from({ length: TABLE * half }, (_, i) =>
        wave(Math.floor(i / half) * 100 ** (-(i % half) / half)),
      ),
    );
  return new Map([
    ['packed', normal(batch, rows, (HEADS + 2 * KV_HEADS) * SIZE)],
    ['query', normal(batch, rows, HEADS * SIZE)],
    ['key', normal(batch, rows, KV_HEADS * SIZE)],
    ['value', normal(batch, rows, KV_HEADS * SIZE)],
    ['past_key', normal(batch, KV_HEADS, held, SIZE)],
    ['past_value', normal(batch, KV_HEADS, held, SIZE)],
    ['last', tensorFrom('int32', [batch], Float64Array.from(last))],
    ['sinks', normal(HEADS)],
    ['total', tensorFrom('int32', [], Float64Array.of(total))],
    ['cosines', table(Math.cos)],
    ['sines', table(Math.sin)],
    [
      'positions',
      tensorFrom(
        'int64',
        [batch, rows],
        Float64Array.from({ length: batch * rows }, () => random.below(TABLE / 2)),
      ),
    ],
  ]);
}

/** The model before and with exact attention in place of its site. */
async function pair(
  original: Uint8Array,
  settings: Readonly<Record<string, AttributeValue>>,
  operator: OperatorDefinition = multipoleAttention,
): Promise<readonly [FixtureSession, FixtureSession]> {
  const { model } = rewriteModel(original, sites => {
    const choice = { operator, settings, selects: () => true };
    const decisions = decideUniformly(sites, choice, operator === multipoleAttention ? 0 : null);
    assert.deepEqual(
      decisions.map(({ reason, replacement }) => replacement === null && reason),
      [false],
    );
    return decisions;
  });
  return [await FixtureSession.open(original), await FixtureSession.open(model)];
}

/** Relative squared difference of the elements of `y` that belong to rows with a token. */
function differenceOf(expected: TensorValue, actual: TensorValue, [, rows, , last, total]: Step): number {
  const [a, b] = [toNumbers(expected), toNumbers(actual)];
  let [difference, size] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    const position = Math.floor(i / (HEADS * SIZE));
    const isPadding = rows === total && position % rows > last[Math.floor(position / rows)]!;
    if (isPadding) continue;
    difference += (a[i]! - b[i]!) ** 2;
    size += a[i]! ** 2;
  }
  return difference / size;
}

const FORMS: readonly Form[] = [
  { name: 'without positions' },
  { name: 'rotary', rotated: SIZE },
  { name: 'packed, half precision', packed: true, rotated: SIZE, half: true },
  { name: 'positions given', rotated: SIZE, interleaved: true, positions: true },
  { name: 'without a cache', rotated: SIZE, cache: false },
  { name: 'a window of two keys', rotated: SIZE, window: 2 },
  { name: 'a window of five keys, packed', packed: true, window: 5 },
  { name: 'a window without a cache', window: 3, cache: false },
  { name: 'sinks', rotated: SIZE, sink: 'by head' },
  { name: 'a smooth softmax, half precision', sink: 'zero', half: true },
  { name: 'sinks and a window', window: 3, sink: 'by head' },
];

const PROMPTS: readonly Step[] = [
  [1, 7, 0, [6], 7],
  [3, 7, 0, [6, 2, 4], 7],
  [2, 1, 0, [0, 0], 1],
];
const LATER_STEPS: readonly Step[] = [
  [2, 1, 6, [6, 6], 7],
  [3, 1, 6, [6, 3, 0], 7],
  [1, 4, 5, [8], 9],
  [1, 5, 3, [4], 5],
];

describe('caches of com.microsoft GroupQueryAttention', () => {
  for (const form of FORMS) {
    it(`joined outside are equal: ${form.name}`, async () => {
      const [before, after] =
        form.window === undefined
          ? await pair(groupQueryAttention(form), EXACT)
          : await pair(groupQueryAttention(form), {}, localAttention);
      for (const step of form.cache === false ? PROMPTS : [...PROMPTS, ...LATER_STEPS]) {
        const feeds = feedsOf(form, step);
        const [expected, actual] = [await before.run(feeds), await after.run(feeds)];
        for (const name of ['keys', 'values']) {
          assert.deepEqual(actual.get(name), expected.get(name), `${name} at ${JSON.stringify(step)}`);
        }
        const difference = differenceOf(expected.get('y')!, actual.get('y')!, step);
        assert.ok(difference <= ROUNDING, `${difference} at ${JSON.stringify(step)}`);
      }
      await Promise.all([before.release(), after.release()]);
    });
  }

  it('hold the tokens of a prompt in pieces and of steps after it', async () => {
    const form = { name: '', rotated: SIZE };
    const [before, after] = await pair(groupQueryAttention(form), { ...EXACT, exact_below_rows: 0 });
    const steps: readonly Step[] = [
      [1, 5, 0, [4], 5],
      [1, 3, 5, [7], 8],
      [1, 1, 8, [8], 9],
    ];
    let [expected, actual]: [Feeds, Feeds] = [new Map(), new Map()];
    for (const step of steps) {
      const feeds = feedsOf(form, step);
      const withCache = (outputs: Feeds) => {
        const [keys, values] = [outputs.get('keys'), outputs.get('values')];
        return keys && values
          ? new Map([...feeds, ['past_key', keys] as const, ['past_value', values] as const])
          : feeds;
      };
      [expected, actual] = [await before.run(withCache(expected)), await after.run(withCache(actual))];
      assert.ok(differenceOf(expected.get('y')!, actual.get('y')!, step) <= ROUNDING);
      assert.deepEqual(actual.get('keys'), expected.get('keys'));
    }
    await Promise.all([before.release(), after.release()]);
  });

  it('fail where they are longer than their longest row, or a piece does not follow on it', async () => {
    const form = { name: '' };
    const [before, after] = await pair(groupQueryAttention(form), EXACT);
    const unsupported: readonly Step[] = [
      [1, 1, 12, [6], 7],
      [2, 5, 12, [4, 2], 5],
      [1, 3, 6, [6], 9],
    ];
    for (const step of unsupported) {
      const feeds = feedsOf(form, step);
      await before.run(feeds);
      await assert.rejects(after.run(feeds), /cache_of_this_length_is_not_supported/);
    }
    await Promise.all([before.release(), after.release()]);
  });
});

describe('caches of other operators', () => {
  const packed = (net: Net, name: string, heads = HEADS) => net.input(name, ['b', 'n', heads * SIZE]);
  const held = (net: Net, name: string, heads = HEADS) => net.input(name, ['b', heads, 'p', SIZE]);
  const normal = (random: SeededRandom, ...dims: number[]) =>
    tensorFrom(
      'float32',
      dims,
      Float64Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random.normal()),
    );
  const nets: Readonly<Record<string, () => Net>> = {
    'com.microsoft MultiHeadAttention': () => {
      const net = new Net();
      const operands = ['query', 'key', 'value'].map(name => packed(net, name));
      const bias = net.tensor(
        [3 * HEADS * SIZE],
        Array.from({ length: 3 * HEADS * SIZE }, (_, i) => Math.sin(i)),
      );
      const past = ['past_key', 'past_value'].map(name => held(net, name));
      const inputs = [...operands, bias, '', '', ...past];
      const attributes = { num_heads: HEADS, unidirectional: 1 };
      net.op('com.microsoft::MultiHeadAttention', inputs, attributes, ['y', 'keys', 'values']);
      return net;
    },
    'com.microsoft Attention': () => {
      const net = new Net();
      const weights = net.tensor(
        [HEADS * SIZE, 3 * HEADS * SIZE],
        Array.from({ length: 3 * (HEADS * SIZE) ** 2 }, (_, i) => Math.sin(i) / 8),
      );
      const past = net.input('past', [2, 'b', HEADS, 'p', SIZE]);
      const inputs = [packed(net, 'query'), weights, net.tensor([3 * HEADS * SIZE], Array(192).fill(0.1))];
      const attributes = { num_heads: HEADS, unidirectional: 1 };
      net.op('com.microsoft::Attention', [...inputs, '', past], attributes, ['y', 'keys']);
      return net;
    },
    'ai.onnx Attention': () => {
      const net = new Net();
      const operands = [packed(net, 'query'), packed(net, 'key', KV_HEADS), packed(net, 'value', KV_HEADS)];
      const past = ['past_key', 'past_value'].map(name => held(net, name, KV_HEADS));
      const attributes = { q_num_heads: HEADS, kv_num_heads: KV_HEADS, is_causal: 1 };
      net.op('Attention', [...operands, '', ...past], attributes, ['y', 'keys', 'values']);
      return net;
    },
  };
  for (const [name, make] of Object.entries(nets)) {
    it(`${name}: prompts, pieces and steps are equal`, async () => {
      const net = make();
      for (const output of net.nodes[0]!.outputs) net.output(output);
      const [before, after] = await pair(
        net.bytes({ opsetImports: { '': 23, 'com.microsoft': 1 }, irVersion: 10 }),
        EXACT,
      );
      const random = new SeededRandom(3);
      for (const [rows, length] of [
        [5, 0],
        [5, 3],
        [1, 6],
      ] as const) {
        const sizes: Readonly<Record<string, number>> = { b: 2, n: rows, p: length };
        const feeds = new Map(
          net.inputs.map(({ name, dims }) => [
            name,
            normal(random, ...dims!.map(dim => (typeof dim === 'number' ? dim : sizes[dim!]!))),
          ]),
        );
        const [expected, actual] = [await before.run(feeds), await after.run(feeds)];
        for (const [output, value] of expected) {
          assert.deepEqual(actual.get(output)!.dims, value.dims);
          const [a, b] = [toNumbers(value), toNumbers(actual.get(output)!)];
          for (let i = 0; i < a.length; i++)
            assert.ok(Math.abs(a[i]! - b[i]!) <= 1e-5 * (1 + Math.abs(a[i]!)));
        }
      }
      await Promise.all([before.release(), after.release()]);
    });
  }
});
