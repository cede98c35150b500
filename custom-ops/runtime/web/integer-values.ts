import type { Graph } from '../../../rewriter/graph/graph.js';
import type { Node } from '../../../rewriter/graph/node.js';
import type { Value } from '../../../rewriter/graph/value.js';
import { DataType } from '../../../rewriter/onnx/spec.js';

/** Operators whose output is int64 whatever goes in. */
const INT64_OUTPUT: ReadonlySet<string> = new Set(['Shape', 'Size', 'NonZero', 'ArgMax', 'ArgMin']);

/** Operators whose output has another type than their first input. */
const OTHER_OUTPUT: ReadonlySet<string> = new Set([
  'Equal',
  'Greater',
  'GreaterOrEqual',
  'Less',
  'LessOrEqual',
  'IsNaN',
  'IsInf',
]);

/**
 * Values of a graph that are probably int64: shapes, positions, indices. ONNX Runtime computes them on the CPU,
 * so they stay there between models. A wrong guess costs a copy and nothing else; declared types are certain.
 */
export function int64Values(graph: Graph): ReadonlySet<Value> {
  const found = new Set<Value>();
  const isInt64 = (value: Value) =>
    (value.declared?.dataType ?? value.initializer?.dataType ?? null) === DataType.INT64 || found.has(value);
  for (const node of graph.nodes) {
    for (const output of node.outputs) {
      if (output && (isInt64(output) || (!output.declared && makesInt64(node, isInt64)))) found.add(output);
    }
  }
  return found;
}

function makesInt64(node: Node, isInt64: (value: Value) => boolean): boolean {
  if (node.info.domain !== '') return false;
  if (INT64_OUTPUT.has(node.type)) return true;
  if (node.type === 'Cast') return node.int('to', DataType.UNDEFINED) === DataType.INT64;
  if (node.type === 'ConstantOfShape' || node.type === 'Constant') {
    return (
      node.tensor('value')?.dataType === DataType.INT64 || node.has('value_int') || node.has('value_ints')
    );
  }
  if (OTHER_OUTPUT.has(node.type)) return false;
  const source = node.inputs[node.type === 'Where' ? 1 : 0];
  return source !== null && source !== undefined && isInt64(source);
}
