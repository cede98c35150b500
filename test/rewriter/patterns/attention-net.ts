import { findSites } from '../../../rewriter/find-sites.js';
import type { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import { DataType, type ModelSpec } from '../../../rewriter/onnx/spec.js';
import { type AttentionSite, isAttention, type NearMiss } from '../../../rewriter/site.js';
import { Net } from '../net.js';

export const HEADS = 4;
export const SIZE = 8;
export const WIDTH = HEADS * SIZE;

/** A factor of the scores: by `op` with `value`, at a place between projection and softmax. */
export interface Factor {
  readonly at: 'projection' | 'query' | 'key' | 'scores';
  readonly op: 'Mul' | 'Div';
  readonly value: number | ((net: Net, query: string) => string);
}

/** The ways in which exporters write one layer of attention; what is left out is the plainest way. */
export interface Variation {
  /** How query, key and value come out of one projection, or that they have one each. */
  readonly packed?: 'split' | 'gather' | 'slice';
  readonly kvHeads?: number;
  /** How key heads are repeated for groups of query heads; 'tile' repeats them in another order. */
  readonly repeat?: 'expand' | 'tile';
  readonly keyTranspose?: 'fused' | 'swap' | 'detour';
  readonly products?: 'matmul' | 'einsum';
  /** Heads next to the batch in tensors of three axes. */
  readonly batched?: boolean;
  readonly factors?: readonly Factor[];
  /** What becomes of the scores before the softmax. */
  readonly mask?: (net: Net, scores: string, query: string) => string;
  /** Makes probabilities of the scores; a Softmax where left out. */
  readonly probabilities?: (net: Net, scores: string) => string;
  readonly guarded?: boolean;
  /** Softmax and mask in float32 of a model in float16. */
  readonly half?: boolean;
  /** Sequence axis of the keys, where they are not the queries'. */
  readonly memory?: boolean;
  readonly softmaxAxis?: number;
}

/** Writes a layer of attention over `x` [batch, sequence, WIDTH] to `y`. */
export function attentionNet(variation: Variation = {}): Net {
  const { kvHeads = HEADS, factors = [], half = false } = variation;
  const net = new Net('/layers.0/attn/');
  const dataType = half ? DataType.FLOAT16 : DataType.FLOAT;
  const x = net.input('x', ['batch', 'sequence', WIDTH], dataType);
  const memory = variation.memory === true ? net.input('memory', ['batch', 'memory', WIDTH], dataType) : x;
  const scaled = (place: Factor['at'], value: string): string =>
    factors
      .filter(({ at }) => at === place)
      .reduce((product, { op, value: factor }) => {
        const operand = typeof factor === 'number' ? net.scalar(factor) : factor(net, 'query');
        return net.op(op, [product, half ? net.op('Cast', [operand], { to: dataType }) : operand]);
      }, value);

  const [q, k, v] = project(net, variation, x, memory, kvHeads, scaled, dataType);
  const heads = (value: string, count: number) => net.op('Reshape', [value, net.ints(0, 0, count, SIZE)]);
  const swap = (value: string) => net.op('Transpose', [value], { perm: [0, 2, 1, 3] });
  if (variation.products === 'einsum') {
    const scores = net.op('Einsum', [heads(q, HEADS), heads(k, HEADS)], { equation: 'bnhd,bshd->bhns' });
    const weights = net.op('Softmax', [scaled('scores', scores)], { axis: -1 });
    const sum = net.op('Einsum', [weights, heads(v, HEADS)], { equation: 'bhns,bshd->bnhd' });
    return finish(net, net.op('Reshape', [sum, net.ints(0, 0, WIDTH)]), dataType);
  }
  const query = net.op('Transpose', [heads(q, HEADS)], { perm: [0, 2, 1, 3] }, ['query']);
  const groups = HEADS / kvHeads;
  const repeated = (value: string) => {
    if (groups === 1) return value;
    if (variation.repeat === 'tile') return net.op('Tile', [value, net.ints(1, groups, 1, 1)]);
    const apart = net.op('Unsqueeze', [value, net.ints(2)]);
    const wide = net.op('Expand', [apart, net.ints(1, 1, groups, 1, 1)]);
    return net.op('Reshape', [
      wide,
      net.op(
        'Concat',
        [
          net.op('Slice', [net.op('Shape', [value]), net.ints(0), net.ints(1)]),
          net.ints(HEADS),
          net.op('Slice', [net.op('Shape', [value]), net.ints(2), net.ints(4)]),
        ],
        { axis: 0 },
      ),
    ]);
  };
  const value = repeated(swap(heads(v, kvHeads)));
  const keyHeads = heads(k, kvHeads);
  const flat = (one: string) =>
    net.op('Reshape', [
      one,
      net.op('Concat', [net.ints(-1), net.op('Slice', [net.op('Shape', [one]), net.ints(2), net.ints(4)])], {
        axis: 0,
      }),
    ]);
  let keyT: string;
  if (variation.keyTranspose === 'fused') keyT = net.op('Transpose', [keyHeads], { perm: [0, 2, 3, 1] });
  else {
    const key = repeated(swap(keyHeads));
    if (variation.batched === true) keyT = net.op('Transpose', [flat(key)], { perm: [0, 2, 1] });
    else if (variation.keyTranspose === 'detour') keyT = detour(net, key, flat);
    else keyT = net.op('Transpose', [key], { perm: [0, 1, 3, 2] });
  }
  const batched = variation.batched === true;
  const left = scaled('query', batched ? flat(query) : query);
  let scores = scaled('scores', net.op('MatMul', [left, scaled('key', keyT)], {}, ['scores']));
  if (half) scores = net.op('Cast', [scores], { to: DataType.FLOAT });
  if (variation.mask !== undefined) scores = variation.mask(net, scores, query);
  let weights =
    variation.probabilities?.(net, scores) ??
    net.op('Softmax', [scores], { axis: variation.softmaxAxis ?? -1 }, ['weights']);
  if (variation.guarded === true)
    weights = net.op('Where', [net.op('IsNaN', [weights]), net.scalar(0), weights]);
  if (half) weights = net.op('Cast', [weights], { to: DataType.FLOAT16 });
  let sum = net.op('MatMul', [weights, batched ? flat(value) : value], {}, ['sum']);
  if (batched) {
    const back = net.op(
      'Concat',
      [net.op('Slice', [net.op('Shape', [query]), net.ints(0), net.ints(3)]), net.ints(SIZE)],
      { axis: 0 },
    );
    sum = net.op('Reshape', [sum, back], {}, ['sum_heads']);
  }
  return finish(net, net.op('Reshape', [swap(sum), net.ints(0, 0, WIDTH)]), dataType);
}

function project(
  net: Net,
  { packed }: Variation,
  x: string,
  memory: string,
  kvHeads: number,
  scaled: (place: Factor['at'], value: string) => string,
  dataType: DataType,
): [string, string, string] {
  const linear = (input: string, to: number) => net.linear(input, WIDTH, to, dataType);
  if (packed === undefined) {
    return [
      scaled('projection', linear(x, WIDTH)),
      linear(memory, kvHeads * SIZE),
      linear(memory, kvHeads * SIZE),
    ];
  }
  const all = linear(x, 3 * WIDTH);
  if (packed === 'split') {
    const parts = ['q', 'k', 'v'];
    net.op('Split', [all], { axis: 2 }, parts);
    return ['q', 'k', 'v'];
  }
  const apart = net.op('Reshape', [all, net.ints(0, 0, 3, WIDTH)]);
  const part = (i: number) =>
    packed === 'gather'
      ? net.op('Gather', [apart, net.int(i)], { axis: 2 })
      : net.op('Squeeze', [net.op('Slice', [apart, net.ints(i), net.ints(i + 1), net.ints(2)]), net.ints(2)]);
  return [part(0), part(1), part(2)];
}

/** Through three axes and back, as scaled_dot_product_attention transposes keys in the dynamo exporter. */
function detour(net: Net, key: string, flat: (value: string) => string): string {
  const shape = net.op('Shape', [key]);
  const size = (axis: number) => net.op('Slice', [shape, net.ints(axis), net.ints(axis + 1)]);
  const turned = net.op('Transpose', [flat(key)], { perm: [0, 2, 1] });
  return net.op('Reshape', [turned, net.op('Concat', [size(0), size(1), size(3), size(2)], { axis: 0 })]);
}

function finish(net: Net, value: string, dataType: DataType): Net {
  net.op('Identity', [value], {}, ['y']);
  net.output('y', ['batch', 'sequence', WIDTH], dataType);
  return net;
}

export interface Inspected {
  readonly graph: ModelGraph;
  readonly sites: readonly AttentionSite[];
  readonly nearMisses: readonly NearMiss[];
}

export function inspectNet(net: Net, rest: Partial<ModelSpec> = {}): Inspected {
  const graph = net.load(rest);
  const { sites, nearMisses } = findSites(graph);
  return { graph, sites: sites.filter(isAttention), nearMisses };
}
