import { isFloating } from '../graph/data-type.js';
import type { Node } from '../graph/node.js';
import { ancestors } from '../graph/slices.js';
import type { Value } from '../graph/value.js';

/** Operators that mix the elements of a row by weights. */
const PROJECTIONS: ReadonlySet<string> = new Set([
  'MatMul',
  'Gemm',
  'Einsum',
  'Conv',
  'ConvInteger',
  'QLinearConv',
  'MatMulInteger',
  'QLinearMatMul',
  'com.microsoft::MatMulIntegerToFloat',
  'com.microsoft::DynamicQuantizeMatMul',
  'com.microsoft::QGemm',
  'com.microsoft::FusedMatMul',
  'com.microsoft::MatMulNBits',
]);

/** Whether a node mixes the elements of a row by weights. */
export function isProjection({ type }: Node): boolean {
  return PROJECTIONS.has(type);
}

/** Operators that put new keys or values behind, or among, those of earlier steps. */
const JOINS: ReadonlySet<string> = new Set(['Concat', 'ScatterND', 'ScatterElements', 'TensorScatter']);

/** A Concat of one input is what tracing leaves of a cache that was empty. */
function isJoin({ type, inputs }: Node): boolean {
  return JOINS.has(type) && inputs.length > 1;
}

/** Values that an operand is made from since its projections, nearest first, ending at their outputs. */
function sinceProjection(operand: Value): Set<Value> {
  return ancestors(
    operand,
    ({ producer }) => producer !== null && lendsElements(producer) && !isProjection(producer),
  );
}

/** What the projections nearest before an operand give. */
export function projectionsBehind(operand: Value): Value[] {
  return [...sinceProjection(operand)].filter(({ producer }) => producer !== null && isProjection(producer));
}

function lendsElements({ type }: Node): boolean {
  return type !== 'Shape' && type !== 'Size';
}

/**
 * Whether keys or values join a floating graph input, rearranged at most, that the rest is not made from: what earlier
 * steps left behind.
 */
export function joinsCache(operand: Value): boolean {
  const joins = [...sinceProjection(operand)].map(({ producer }) => producer).filter(node => node !== null);
  return joins.filter(isJoin).some(({ inputs }) =>
    inputs.some((input, i) => {
      const source = input && rearranged(input);
      if (source == null || !isFloatingInput(source)) return false;
      return inputs.every((other, k) => k === i || other == null || !sinceProjection(other).has(source));
    }),
  );
}

/** Operators whose output holds elements of their first input and nothing else. */
const REARRANGING: ReadonlySet<string> = new Set([
  'Cast',
  'Gather',
  'Identity',
  'Reshape',
  'Slice',
  'Split',
  'Squeeze',
  'Transpose',
  'Unsqueeze',
]);

/** What a value holds elements of, furthest upstream. */
function rearranged(value: Value): Value {
  let source = value;
  for (;;) {
    const { producer } = source;
    const input = producer?.inputs[0];
    if (producer === null || input == null || !REARRANGING.has(producer.type)) return source;
    source = input;
  }
}

/** Whether an operand is a graph input, rearranged at most: computed outside, as by an encoder. */
export function isGivenWhole(operand: Value): boolean {
  const near = [...sinceProjection(operand)];
  return (
    near.some(isFloatingInput) && !near.some(({ producer }) => producer !== null && isProjection(producer))
  );
}

/** How many projections back query and key may part: low-rank attention projects twice. */
const LEVELS = 2;

/** Whether query and key are made from the same hidden states. */
export function shareSource(query: Value, key: Value): boolean {
  let [queries, keys] = [new Set([query]), new Set([key])];
  const seenByQuery = new Set<Value>();
  const seenByKey = new Set<Value>();
  for (let level = 0; level < LEVELS; level++) {
    queries = projectedFrom(queries);
    keys = projectedFrom(keys);
    for (const value of queries) seenByQuery.add(value);
    for (const value of keys) seenByKey.add(value);
    if ([...seenByQuery].some(value => seenByKey.has(value))) return true;
  }
  return false;
}

/** What the projections nearest before these values take in. */
function projectedFrom(values: ReadonlySet<Value>): Set<Value> {
  const sources = new Set<Value>();
  for (const value of values) {
    for (const { producer } of projectionsBehind(value)) {
      for (const input of producer!.inputs)
        if (input !== null && input.initializer === null) sources.add(input);
    }
  }
  return sources;
}

/** States from outside; the inputs of functions have no declared types. */
function isFloatingInput({ fed, declared }: Value): boolean {
  if (!fed || declared === null) return fed;
  return isFloating(declared.dataType) && (declared.dims?.length ?? 0) >= 3;
}
