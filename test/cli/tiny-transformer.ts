import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { buildModel } from '../../rewriter/onnx/encode.js';
import {
  DataType,
  type ModelSpec,
  type NodeSpec,
  type TensorSpec,
  type ValueSpec,
} from '../../rewriter/onnx/spec.js';
import { floats, int64s, node } from '../rewriter/onnx/builders.js';

export interface TinyOptions {
  readonly layers?: number;
  /** Whether the model takes an `attention_mask`, of this type. */
  readonly mask?: DataType.INT64 | DataType.BOOL;
  readonly causal?: boolean;
  /** How many keys before its own a row of a causal model sees; all where absent. */
  readonly window?: number;
  /** Stores the weights in this external data file. */
  readonly externalData?: string;
  /** Static batch and sequence sizes. */
  readonly sizes?: readonly [batch: number, sequence: number];
}

const [WIDTH, HEADS, VOCABULARY] = [32, 4, 257];
const HEAD = WIDTH / HEADS;

/** A byte-level transformer with random weights, as eager exports write it: `input_ids` to `logits`. */
export function tinyTransformer(options: TinyOptions = {}): {
  readonly model: Uint8Array;
  readonly weights: Buffer;
} {
  const { layers = 2, mask, causal = false, window, externalData, sizes = ['batch', 'sequence'] } = options;
  const random = new SeededRandom(7);
  const weights: Uint8Array[] = [];
  let offset = 0;
  const weight = (name: string, dims: readonly number[], spread: number): TensorSpec => {
    const count = dims.reduce((a, b) => a * b, 1);
    const tensor = floats(
      name,
      dims,
      Array.from({ length: count }, () => spread * random.normal()),
    );
    if (externalData === undefined || !('data' in tensor)) return tensor;
    const { data, ...rest } = tensor;
    weights.push(data);
    offset += data.length;
    return {
      ...rest,
      external: { location: externalData, offset: offset - data.length, length: data.length },
    };
  };

  const initializers: TensorSpec[] = [
    weight('embedding', [VOCABULARY, WIDTH], 1),
    weight('head.weight', [WIDTH, VOCABULARY], WIDTH ** -0.5),
    floats('scale', [], [HEAD ** -0.5]),
    floats('lowest', [], [-3.4e38]),
    int64s('split_heads', [4], [0, 0, HEADS, HEAD]),
    int64s('join_heads', [3], [0, 0, WIDTH]),
    int64s('key_axes', [2], [1, 2]),
  ];
  const nodes: NodeSpec[] = [node('Gather', ['embedding', 'input_ids'], ['hidden.0'])];
  const visible = [
    ...(mask === undefined ? [] : keyMask(mask, nodes)),
    ...(causal ? causalMask(nodes, initializers) : []),
    ...(window === undefined ? [] : windowMask(window, nodes, initializers)),
  ];
  for (let layer = 0; layer < layers; layer++) {
    for (const role of ['q', 'k', 'v', 'o']) {
      initializers.push(weight(`blocks.${layer}.${role}.weight`, [WIDTH, WIDTH], WIDTH ** -0.5));
    }
    nodes.push(...block(layer, visible));
  }
  nodes.push(node('MatMul', [`hidden.${layers}`, 'head.weight'], ['logits']));

  const ids = (name: string, dataType: DataType): ValueSpec => ({ name, dataType, dims: sizes });
  const spec: ModelSpec = {
    irVersion: 8,
    opsetImports: { '': 17 },
    producerName: 'tiny',
    graph: {
      name: 'tiny',
      nodes,
      initializers,
      inputs: [
        ids('input_ids', DataType.INT64),
        ...(mask === undefined ? [] : [ids('attention_mask', mask)]),
      ],
      // What tells the number of keys when it is static, as exporters write it.
      values: Array.from({ length: layers }, (_, layer) => ({
        name: `/blocks.${layer}/attn/k`,
        dataType: DataType.FLOAT,
        dims: [sizes[0], HEADS, sizes[1], HEAD],
      })),
      outputs: [{ name: 'logits', dataType: DataType.FLOAT, dims: [...sizes, VOCABULARY] }],
    },
  };
  return { model: buildModel(spec), weights: Buffer.concat(weights) };
}

function block(layer: number, visible: readonly string[]): NodeSpec[] {
  const prefix = `blocks.${layer}`;
  const at = (name: string) => `/${prefix}/attn/${name}`;
  const perm = (...axes: number[]) => ({ perm: { type: 'ints', value: axes } }) as const;
  const heads = (role: string): NodeSpec[] => [
    node('MatMul', [`hidden.${layer}`, `${prefix}.${role}.weight`], [at(`${role}_projected`)]),
    node('Reshape', [at(`${role}_projected`), 'split_heads'], [at(`${role}_split`)]),
    node('Transpose', [at(`${role}_split`)], [at(role)], perm(0, 2, 1, 3)),
  ];
  let scores = at('scaled');
  const masking = visible.map((mask, i) => {
    const masked = at(`masked_${i}`);
    const result = node('Where', [mask, scores, 'lowest'], [masked]);
    scores = masked;
    return result;
  });
  return [
    ...heads('q'),
    ...heads('k'),
    ...heads('v'),
    node('Transpose', [at('k')], [at('k_transposed')], perm(0, 1, 3, 2)),
    node('MatMul', [at('q'), at('k_transposed')], [at('scores')]),
    node('Mul', [at('scores'), 'scale'], [at('scaled')]),
    ...masking,
    node('Softmax', [scores], [at('probabilities')], { axis: { type: 'int', value: -1 } }),
    node('MatMul', [at('probabilities'), at('v')], [at('attended')]),
    node('Transpose', [at('attended')], [at('sequence')], perm(0, 2, 1, 3)),
    node('Reshape', [at('sequence'), 'join_heads'], [at('joined')]),
    node('MatMul', [at('joined'), `${prefix}.o.weight`], [at('output')]),
    node('Add', [`hidden.${layer}`, at('output')], [`hidden.${layer + 1}`]),
  ];
}

/** Adds nodes that make `attention_mask` bool `[batch, 1, 1, keys]`; returns its name. */
function keyMask(type: DataType.INT64 | DataType.BOOL, nodes: NodeSpec[]): string[] {
  const bool = type === DataType.BOOL ? 'attention_mask' : 'mask_bool';
  if (type !== DataType.BOOL) {
    nodes.push(node('Cast', ['attention_mask'], [bool], { to: { type: 'int', value: DataType.BOOL } }));
  }
  nodes.push(node('Unsqueeze', [bool, 'key_axes'], ['mask_4d']));
  return ['mask_4d'];
}

/** Adds nodes that compare positions: bool `[queries, keys]`, true up to the diagonal; returns its name. */
function causalMask(nodes: NodeSpec[], initializers: TensorSpec[]): string[] {
  initializers.push(int64s('zero', [], [0]), int64s('one', [], [1]), int64s('axis_one', [], [1]));
  initializers.push(int64s('column', [1], [1]));
  nodes.push(
    node('Shape', ['input_ids'], ['shape']),
    node('Gather', ['shape', 'axis_one'], ['length']),
    node('Range', ['zero', 'length', 'one'], ['positions']),
    node('Unsqueeze', ['positions', 'column'], ['rows']),
    node('LessOrEqual', ['positions', 'rows'], ['causal_mask']),
  );
  return ['causal_mask'];
}

/** Adds nodes that compare positions of {@link causalMask}: true from `window` keys before the diagonal on. */
function windowMask(window: number, nodes: NodeSpec[], initializers: TensorSpec[]): string[] {
  initializers.push(int64s('window', [], [window]));
  nodes.push(
    node('Sub', ['rows', 'window'], ['first_keys']),
    node('LessOrEqual', ['first_keys', 'positions'], ['window_mask']),
  );
  return ['window_mask'];
}
