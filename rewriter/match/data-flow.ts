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

/** Whether keys or values join a floating graph input, unprojected: what earlier steps left behind. */
export function joinsCache(operand: Value): boolean {
  const near = sinceProjection(operand);
  return [...near].some(
    value =>
      isFloatingInput(value) &&
      value.uses.some(({ node }) => JOINS.has(node.type) && near.has(node.outputs[0]!)),
  );
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
