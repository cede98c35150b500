import assert from 'node:assert/strict';
import { type TensorValue, tensorFrom } from '../../../cli/data/tensor.js';
import { attentionReach } from '../../../cli/validation/attention-reach.js';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import type { AttentionSite, Layout } from '../../../rewriter/site.js';
import { type AttentionReach, REACH_BOUNDS } from '../../../rewriter/validation.js';

const SCALE = 0.5;

interface Case {
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly size: number;
  readonly causal?: boolean;
  readonly layout?: Layout;
  /** Visible keys, one row; none hidden when absent. */
  readonly visible?: readonly boolean[];
}

function site({ heads, kvHeads, causal = false, layout = 'BHND', visible }: Case): AttentionSite {
  const operand = (value: string) => ({ value, layout, dataType: DataType.FLOAT, projection: null });
  const keyMask = visible ? { value: 'mask', dataType: DataType.BOOL, visible: 'nonzero' as const } : null;
  return {
    computation: 'softmax',
    id: 'site',
    scope: null,
    graphPath: [],
    pattern: 'test',
    nodes: [],
    query: operand('q'),
    key: operand('k'),
    value: operand('v'),
    output: operand('o'),
    queryHeads: heads,
    kvHeads,
    headDim: null,
    valueDim: null,
    scale: SCALE,
    sink: null,
    rotary: null,
    cache: null,
    operatorScale: SCALE,
    mask: 'none',
    window: null,
    causal,
    keyMask,
    alignment: 'bottom-right',
    emptyRow: 'unknown',
    past: false,
    kind: 'self',
    dtype: 'float32',
    replaceable: true,
    reason: null,
  };
}

/** Moves [1, heads, rows, size] into another layout. */
function laidOut(data: Float32Array, heads: number, rows: number, size: number, layout: Layout): TensorValue {
  const at = (h: number, n: number, d: number) => data[(h * rows + n) * size + d]!;
  const sizes = { H: heads, N: rows, D: size };
  const order = layout.replace(/[B()]/g, '') as 'HND' | 'HDN' | 'NHD';
  const [first, second, third] = [...order] as ('H' | 'N' | 'D')[];
  const values: number[] = [];
  for (let a = 0; a < sizes[first!]; a++) {
    for (let b = 0; b < sizes[second!]; b++) {
      for (let c = 0; c < sizes[third!]; c++) {
        const place = { H: 0, N: 0, D: 0, [first!]: a, [second!]: b, [third!]: c };
        values.push(at(place.H, place.N, place.D));
      }
    }
  }
  const dims: Readonly<Record<Layout, readonly number[]>> = {
    BHND: [1, heads, rows, size],
    BHDN: [1, heads, size, rows],
    BNHD: [1, rows, heads, size],
    'BN(HD)': [1, rows, heads * size],
    'B(HD)N': [1, heads * size, rows],
    'NB(HD)': [rows, 1, heads * size],
    'N(BH)D': [rows, heads, size],
    '(BH)ND': [heads, rows, size],
  };
  return tensorFrom('float32', dims[layout], values);
}

function random(count: number, seed: number): Float32Array {
  const source = new SeededRandom(seed);
  return Float32Array.from({ length: count }, () => source.normal());
}

function reachOf(one: Case, q: Float32Array, k: Float32Array): AttentionReach | null {
  const { heads, kvHeads, queries, keys, size, layout = 'BHND', visible } = one;
  const values = new Map([
    ['q', laidOut(q, heads, queries, size, layout)],
    ['k', laidOut(k, kvHeads, keys, size, layout)],
  ]);
  if (visible) values.set('mask', tensorFrom('bool', [1, keys], visible.map(Number)));
  return attentionReach(site(one), name => values.get(name));
}

/** Every row, by the definition. */
function expected(
  { heads, kvHeads, queries, keys, size, causal, visible }: Case,
  q: Float32Array,
  k: Float32Array,
) {
  const mass = [...REACH_BOUNDS, null].map(() => 0);
  let entropy = 0;
  for (let h = 0; h < heads; h++) {
    const g = Math.floor((h * kvHeads) / heads);
    for (let i = 0; i < queries; i++) {
      const position = i + keys - queries;
      const weights = Array.from({ length: keys }, (_, j) => {
        if ((causal && j > position) || visible?.[j] === false) return 0;
        let product = 0;
        for (let d = 0; d < size; d++)
          product += q[(h * queries + i) * size + d]! * k[(g * keys + j) * size + d]!;
        return Math.exp(SCALE * product);
      });
      const sum = weights.reduce((a, b) => a + b, 0);
      for (const [j, weight] of weights.entries()) {
        const bin = REACH_BOUNDS.filter(bound => bound <= Math.abs(position - j)).length;
        mass[bin]! += weight / sum / (heads * queries);
        if (weight > 0) entropy -= ((weight / sum) * Math.log(weight / sum)) / (heads * queries);
      }
    }
  }
  return { mass, keys: Math.exp(entropy) };
}

describe('reach of attention', () => {
  const shape = { heads: 4, kvHeads: 2, queries: 40, keys: 90, size: 5 };
  const q = random(4 * 40 * 5, 1);
  const k = random(2 * 90 * 5, 2);
  const visible = Array.from({ length: 90 }, (_, j) => j % 3 !== 0);

  for (const [name, one] of Object.entries<Case>({
    'all keys': shape,
    'causal, grouped heads': { ...shape, causal: true },
    'hidden keys': { ...shape, visible },
    'causal with hidden keys': { ...shape, causal: true, visible },
    'keys transposed': { ...shape, layout: 'BHDN' },
    'heads inside': { ...shape, layout: 'BNHD' },
    'heads packed': { ...shape, layout: 'BN(HD)' },
    'channels first': { ...shape, layout: 'B(HD)N' },
    'sequence first': { ...shape, layout: 'NB(HD)' },
    'batch times heads': { ...shape, layout: 'N(BH)D' },
    'batch times heads first': { ...shape, layout: '(BH)ND' },
  })) {
    it(`is the mean mass by distance: ${name}`, () => {
      const reach = reachOf(one, q, k)!;
      const { mass, keys } = expected(one, q, k);
      for (const [i, share] of mass.entries()) assert.ok(Math.abs(reach.mass[i]! - share) < 1e-6, `bin ${i}`);
      assert.ok(Math.abs(reach.effective_keys / keys - 1) < 1e-6);
      assert.equal(reach.rows, 40);
    });
  }

  it('looks at a bounded number of rows of long sequences', () => {
    const one = { heads: 1, kvHeads: 1, queries: 5000, keys: 5000, size: 1 };
    const even = reachOf(one, new Float32Array(5000), new Float32Array(5000))!;
    assert.equal(even.rows, 64);
    assert.ok(Math.abs(even.effective_keys - 5000) < 0.01);
    assert.ok(Math.abs(even.mass.reduce((sum, share) => sum + share, 0) - 1) < 1e-9);
    assert.ok(even.mass[4]! > even.mass[3]! && even.mass[5]! > 0);
  });

  it('is not measured where there is no distance, or operands are not what they seem', () => {
    const values = new Map([['q', laidOut(q, 4, 40, 5, 'BHND')]]);
    const of = (changes: Partial<AttentionSite>) =>
      attentionReach({ ...site(shape), ...changes }, name => values.get(name));
    assert.equal(of({ kind: 'cross' }), null);
    assert.equal(of({ operatorScale: null }), null);
    assert.equal(of({}), null);
  });
});
