import type { HeadRotation } from '../custom-ops/head-rotation.js';
import type { AddedNodes } from './added-nodes.js';
import type { LinearOperand } from './linear-operand.js';
import { float32ToFloat16 } from './onnx/float16.js';
import { DataType } from './onnx/spec.js';

/** Where a query or key is rotated. */
interface Place {
  readonly nodes: AddedNodes;
  readonly rotation: HeadRotation;
  /** Of the operand, float32 or float16. */
  readonly dataType: DataType;
  /** Heads of the operand: a multiple of the rotation's. */
  readonly heads: number;
  /** 'query' or 'key', for names. */
  readonly role: string;
}

/** `value` [B,H,N,D] with every head rotated. */
export function rotatedHeads(value: string, place: Place): string {
  return rotatedRows(value, [0, place.heads, -1], place.role, place);
}

/**
 * The output of the layer behind an operand, in `LinearOperand.layout`, when its weights are rotated. That is left
 * to the constant folding of runtimes: the stored weights stay as they are, wherever and in whatever type the
 * file has them.
 */
export function rotatedLayer({ input, weights, bias, split }: LinearOperand, place: Place): string {
  const { nodes, role, heads, rotation } = place;
  const inHeads = nodes.moved(weights, `${role}_weights_heads`, [
    { reshape: [0, heads, rotation.headDim] },
    { transpose: [1, 0, 2] },
  ]);
  const turned = rotatedRows(inHeads, [heads, -1], `${role}_weights_rotated`, place);
  const matrix = nodes.moved(turned, `${role}_weights`, [{ transpose: [1, 0, 2] }, { reshape: [0, -1] }]);
  let value = nodes.add('MatMul', `${role}_product`, [input, matrix]);
  if (bias !== null) {
    const rows = nodes.reshape(bias, `${role}_bias_heads`, [heads, 1, rotation.headDim]);
    const vector = rotatedRows(rows, [heads, 1], `${role}_bias_rotated`, place);
    value = nodes.add('Add', `${role}_projection`, [value, nodes.reshape(vector, `${role}_bias`, [-1])]);
  }
  if (split === null) return value;
  const allowZero = { allowzero: { type: 'int', value: split.allowZero } } as const;
  return nodes.add('Reshape', `${role}_split`, [value, split.shape], split.allowZero === 0 ? {} : allowZero);
}

/**
 * Rows [...,H,n,D] times the matrix of their head.
 * @param shape that the axes before D come back to, once the rows of all heads that share a matrix were joined
 */
function rotatedRows(value: string, shape: readonly number[], name: string, place: Place): string {
  const { nodes, rotation, dataType, heads } = place;
  const { heads: groups, headDim, matrices } = rotation;
  const elements = dataType === DataType.FLOAT16 ? float32ToFloat16(matrices) : matrices;
  const data = new Uint8Array(elements.buffer, elements.byteOffset, elements.byteLength);
  const matrix = nodes.constant(`${name}_rotation`, { dataType, dims: [groups, headDim, headDim], data });
  if (heads === groups) return nodes.add('MatMul', name, [value, matrix]);
  const lead = shape.slice(0, shape.length - 2);
  const rows = nodes.reshape(value, `${name}_groups`, [...lead, groups, -1, headDim]);
  const product = nodes.add('MatMul', `${name}_product`, [rows, matrix]);
  return nodes.reshape(product, name, [...shape, headDim]);
}
