import { DataType, type FunctionSpec } from '../../rewriter/onnx/spec.js';
import { GraphBuilder, type Value } from '../graph-builder.js';
import { type BodyContext, DOMAIN } from '../operator.js';
import { atLeastOne, HIDDEN, joinedChunks, keyBias, type SoftmaxPart, softmaxPart } from '../softmax-part.js';
import { blockLength, levelOffsets, MOST_LEVELS, type MultiLevelParameters } from './parameters.js';

export const OP_TYPE = 'MultiLevelAttention';

const LEVELS = Array.from({ length: MOST_LEVELS }, (_, level) => level);

/** Inputs of the operator, in order; past_key_1 is the global level. */
export const INPUT_NAMES: readonly string[] = [
  'query',
  'key',
  'value',
  'key_mask',
  'past_value',
  ...LEVELS.map(level => `past_key_${level + 1}`),
];

/** Outputs of the operator, in order. */
export const OUTPUT_NAMES: readonly string[] = [
  'output',
  'lse',
  'present_value',
  ...LEVELS.map(level => `present_key_${level + 1}`),
];

/** Most rows whose scores over all keys exist at once. */
const CHUNK_ROWS = 256;

/** One level of the keys, past and present. */
interface Level {
  /** Tokens in a block; infinite for the global level. */
  readonly length: number;
  readonly rank: number;
  /** [B,G,T,rank] in the element type of the node, and T. */
  readonly keys: Value;
  readonly count: Value;
  /** [B*G,1,rank,T] in float32, at least one key. */
  readonly transposed: Value;
  /** Position of the first key. */
  readonly first: Value;
}

/** Keys [start, end) by position, each an int64 value of one element. */
interface Span {
  readonly start: Value;
  readonly end: Value;
}

/**
 * The operator in standard ONNX operators. Rows are taken in chunks: level l multiplies a chunk with the keys
 * of the blocks that the chunk touches and no others, so its products number rows * block length, and their
 * inner dimension is the rank of the level. Working memory grows as keys * heads * {@link CHUNK_ROWS}.
 * @param connected names of the inputs, and of the optional outputs, that the node connects: a body has no
 *   output after the last that its node has
 */
export function multiLevelFunctionBody(
  parameters: MultiLevelParameters,
  connected: readonly string[],
  { opset, elementType }: BodyContext,
): FunctionSpec {
  const b = new GraphBuilder(opset);
  const lastOf = (names: readonly string[]) => names.findLastIndex(name => connected.includes(name)) + 1;
  const inputs = INPUT_NAMES.slice(0, lastOf(INPUT_NAMES));
  const outputs = OUTPUT_NAMES.slice(0, Math.max(1, lastOf(OUTPUT_NAMES)));
  // The element type is the node's: UNDEFINED stands for it until the cast.
  const input = (name: string, type = DataType.UNDEFINED): Value | null =>
    connected.includes(name) ? { name, type } : null;
  const query = input('query')!;
  const joined = (past: Value | null, present: Value) => (past ? b.concat([past, present], 2) : present);

  const value = joined(input('past_value'), input('value')!);
  const keys = b.dim(value, 2);
  const offsets = levelOffsets(parameters);
  const levels = parameters.ranks.map((rank, level): Level => {
    const recent = b.slice(input('key')!, 3, offsets[level]!, offsets[level]! + rank);
    const all = joined(input(`past_key_${level + 1}`), recent);
    const count = b.dim(all, 2);
    const padded = atLeastOne(b, b.cast(all, DataType.FLOAT), 4, 2, count, 0);
    const merged = b.reshape(padded, [-1, 1, b.max(count, 1), rank]);
    return {
      length: blockLength(parameters, level),
      rank,
      keys: all,
      count,
      transposed: b.transpose(merged, [0, 1, 3, 2]),
      first: b.sub(keys, count),
    };
  });

  const { output, lse } = attention(
    b,
    b.cast(query, DataType.FLOAT),
    b.cast(value, DataType.FLOAT),
    input('key_mask', DataType.BOOL),
    keys,
    levels,
    parameters,
  );
  const narrow = (x: Value) => b.castLike(x, query, elementType);
  const results: Record<string, () => Value> = {
    output: () => narrow(output),
    lse: () => narrow(lse),
    present_value: () => b.identity(value),
  };
  levels.forEach((level, l) => {
    results[`present_key_${l + 1}`] = () => unfinishedBlock(b, level, keys);
  });
  for (const name of outputs) b.output(results[name]!(), name);
  return {
    domain: DOMAIN,
    name: OP_TYPE,
    inputs,
    outputs,
    opsetImports: { '': opset },
    nodes: b.nodes,
  };
}

/** The keys of the block that the tokens so far leave unfinished: all of the global level. */
function unfinishedBlock(b: GraphBuilder, { length, keys: all, count }: Level, keys: Value): Value {
  if (!Number.isFinite(length)) return b.identity(all);
  return b.slice(all, 2, b.sub(count, b.mod(keys, length)), count);
}

/**
 * @param query [B,H,N,D]
 * @param value [B,G,keys,E]
 * @returns [B,H,N,E] and [B,H,N]
 */
function attention(
  b: GraphBuilder,
  query: Value,
  value: Value,
  keyMask: Value | null,
  keys: Value,
  levels: readonly Level[],
  parameters: MultiLevelParameters,
): SoftmaxPart {
  const [batch, heads, queries, headDim] = [0, 1, 2, 3].map(axis => b.dim(query, axis)) as [
    Value,
    Value,
    Value,
    Value,
  ];
  const [kvHeads, valueDim] = [b.dim(value, 1), b.dim(value, 3)];
  const [kvParts, share] = [b.mul(batch, kvHeads), b.div(heads, kvHeads)];
  // Reshaping cannot tell an empty axis: sequences get at least one element, a row cut off or a hidden key.
  const length = b.max(keys, 1);
  const values = b.reshape(atLeastOne(b, value, 4, 2, keys, 0), [kvParts, 1, length, valueDim]);
  const bias = keyMask && keyBias(b, keyMask, { batch, kvHeads, keys });
  const rows = b.min(b.max(queries, 1), CHUNK_ROWS);
  const chunks = b.ceilDiv(b.max(queries, 1), rows);
  const padded = b.pad(b.mul(query, factors(b, parameters)), 4, 2, 0, b.sub(b.mul(chunks, rows), queries));
  const grid = b.reshape(padded, [kvParts, share, b.mul(chunks, rows), headDim]);
  const position =
    parameters.causalOffset === null ? b.sub(keys, queries) : b.ints([parameters.causalOffset]);

  const { stacked } = b.loop(chunks, [], (inner, iteration) => {
    const start = inner.mul(iteration, rows);
    const end = inner.add(start, rows);
    const span = {
      start: inner.add(start, position),
      end: inner.add(inner.max(inner.min(end, queries), 1), position),
    };
    const seen = parameters.causal ? inner.max(inner.min(span.end, length), 1) : length;
    const rowPositions = inner.reshape(inner.add(inner.range(rows), span.start), [rows, 1]);
    const chunk = inner.slice(grid, 2, start, end);
    let products = scores(inner, chunk, rowPositions, span, seen, levels, parameters);
    if (bias) products = inner.add(products, inner.slice(bias, 3, 0, seen));
    if (parameters.causal) {
      const visible = inner.lessOrEqual(inner.range(seen), rowPositions);
      products = inner.add(products, inner.where(visible, 0, inner.constant(HIDDEN, DataType.FLOAT)));
    }
    const { output, lse } = softmaxPart(inner, products, inner.slice(values, 2, 0, seen));
    return { state: [], stacked: [output, lse] };
  });

  const [output, lse] = stacked as [Value, Value];
  return joinedChunks(b, { output, lse }, { batch, heads, queries, keys, valueDim });
}

/** [D]: what each dimension of the query is multiplied by, the scale and what is the same for all pairs. */
function factors(b: GraphBuilder, { ranks, scale, levelScale, divide }: MultiLevelParameters): Value {
  const headDim = ranks.reduce((sum, rank) => sum + rank, 0);
  const whole = (scale ?? 1 / Math.sqrt(headDim)) / (divide === 'count' ? ranks.length : 1);
  return b.constant(
    ranks.flatMap((rank, level) => Array.from({ length: rank }, () => whole * levelScale[level]!)),
    DataType.FLOAT,
  );
}

/**
 * Scores [B*G,H/G,rows,seen] of a chunk of rows, from the innermost level outwards: what a level adds is zero
 * outside the blocks of its rows.
 * @param chunk [B*G,H/G,rows,D], scaled
 * @param rowPositions [rows,1]
 * @param span the positions of the rows
 * @param seen keys from the first one on that any row may see
 */
function scores(
  b: GraphBuilder,
  chunk: Value,
  rowPositions: Value,
  span: Span,
  seen: Value,
  levels: readonly Level[],
  parameters: MultiLevelParameters,
): Value {
  const offsets = levelOffsets(parameters);
  const everything: Span = { start: b.ints([0]), end: seen };
  const touched = levels.map(({ length }) =>
    Number.isFinite(length) ? hull(b, span, length, seen) : everything,
  );
  /** Extends [...,keys of level l] by zeros to the keys of the level outside it. */
  const extend = (x: Value, rank: number, level: number) => {
    const [outer, own] = [touched[level - 1]!, touched[level]!];
    return b.pad(x, rank, rank - 1, b.sub(own.start, outer.start), b.sub(outer.end, own.end));
  };
  let sum: Value | null = null;
  let sharedLevels: Value | null = null;
  for (let l = levels.length - 1; l >= 0; l--) {
    const { transposed, first, length } = levels[l]!;
    const { start, end } = touched[l]!;
    const keys = b.slice(transposed, 3, b.sub(start, first), b.sub(end, first));
    let products = b.matMul(b.slice(chunk, 3, offsets[l]!, offsets[l + 1]!), keys);
    if (sum) products = b.add(products, extend(sum, 4, l + 1));
    if (l === 0) {
      if (parameters.divide === 'shared' && sharedLevels) {
        return b.div(products, b.add(extend(sharedLevels, 2, 1), 1));
      }
      return products;
    }
    const positions = b.add(b.range(b.sub(end, start)), start);
    const same = b.equal(blockStart(b, rowPositions, length), blockStart(b, positions, length));
    sum = b.where(same, products, 0);
    if (parameters.divide === 'shared') {
      const inner: Value | number = sharedLevels ? b.add(extend(sharedLevels, 2, l + 1), 1) : 1;
      sharedLevels = b.where(same, inner, b.constant(0, DataType.FLOAT));
    }
  }
  throw new RangeError('no level');
}

/** Position of the first token of the block that holds a position, which may be negative. */
function blockStart(b: GraphBuilder, position: Value, length: number): Value {
  return b.sub(position, b.mod(position, length));
}

/** The keys of all blocks of a level that hold a position of `span`, cut to the first `seen` keys. */
function hull(b: GraphBuilder, span: Span, length: number, seen: Value): Span {
  const start = b.min(b.max(blockStart(b, span.start, length), 0), seen);
  const end = b.add(blockStart(b, b.sub(span.end, 1), length), length);
  return { start, end: b.min(b.max(end, start), seen) };
}
