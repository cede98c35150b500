import { bfloat16ToFloat32, float16ToFloat32 } from '../onnx/float16.js';
import type { ModelInfo, TensorInfo } from '../onnx/model-info.js';
import { DataType } from '../onnx/spec.js';
import { readTensorData } from '../onnx/tensor-data.js';
import type { Node } from './node.js';
import type { Value } from './value.js';

/** A tensor known without running the model; a bool is 0 or 1, an int64 the nearest double. */
export interface Constant {
  readonly dims: readonly number[];
  readonly dataType: DataType;
  readonly data: ArrayLike<number>;
}

/** Longest constant that is worth reading: a stored attention mask of 4096 positions in float32. */
const MOST_BYTES = 64 * 1024 * 1024;

/** Reads constants of a model on demand and keeps them. */
export class Constants {
  private readonly known = new Map<TensorInfo, Constant | null>();

  constructor(private readonly model: ModelInfo) {}

  /** The constant that a value is: an initializer or a Constant node, if need be behind Identity and Cast. */
  of(value: Value): Constant | null {
    if (value.initializer !== null) return this.tensor(value.initializer);
    const node = value.producer;
    if (node === null) return null;
    const source = node.inputs[0];
    switch (node.type) {
      case 'Constant':
        return this.ofNode(node);
      case 'Identity':
        return source ? this.of(source) : null;
      case 'Cast': {
        const inner = source ? this.of(source) : null;
        return inner === null ? null : castConstant(inner, node.int('to', DataType.UNDEFINED));
      }
      default:
        return null;
    }
  }

  /** The only element of a constant; null when the value is no constant or has several. */
  scalar(value: Value): number | null {
    const constant = this.of(value);
    return constant?.data.length === 1 ? constant.data[0]! : null;
  }

  /** The output of a Constant node; null for strings, sparse tensors and tensors too long to be read. */
  ofNode(node: Node): Constant | null {
    const tensor = node.tensor('value');
    if (tensor !== null) return this.tensor(tensor);
    const numbers = (dataType: DataType, dims: readonly number[], data: readonly number[]) => ({
      dims,
      dataType,
      data,
    });
    const ints = node.ints('value_ints');
    if (ints !== null) return numbers(DataType.INT64, [ints.length], ints);
    const floats = node.floats('value_floats');
    if (floats !== null) return numbers(DataType.FLOAT, [floats.length], floats);
    if (node.has('value_int')) return numbers(DataType.INT64, [], [node.int('value_int', 0)]);
    if (node.has('value_float')) return numbers(DataType.FLOAT, [], [node.float('value_float', 0)]);
    return null;
  }

  /** The elements of a stored tensor; null when they are not numbers or too many to be read. */
  tensor(tensor: TensorInfo): Constant | null {
    let constant = this.known.get(tensor);
    if (constant === undefined) {
      const bytes = readTensorData(tensor, this.model, MOST_BYTES);
      const data = bytes === null ? null : decodeNumbers(bytes, tensor.dataType);
      constant = data === null ? null : { dims: tensor.dims, dataType: tensor.dataType, data };
      this.known.set(tensor, constant);
    }
    return constant;
  }
}

/** Elements in the form of `raw_data` as numbers; null for types that hold none or are narrower than a byte. */
export function decodeNumbers(bytes: Uint8Array<ArrayBuffer>, dataType: DataType): ArrayLike<number> | null {
  const { buffer } = bytes;
  switch (dataType) {
    case DataType.FLOAT:
      return new Float32Array(buffer);
    case DataType.DOUBLE:
      return new Float64Array(buffer);
    case DataType.FLOAT16:
      return float16ToFloat32(new Uint16Array(buffer));
    case DataType.BFLOAT16:
      return bfloat16ToFloat32(new Uint16Array(buffer));
    case DataType.INT64:
      return Float64Array.from(new BigInt64Array(buffer), Number);
    case DataType.UINT64:
      return Float64Array.from(new BigUint64Array(buffer), Number);
    case DataType.INT32:
      return new Int32Array(buffer);
    case DataType.UINT32:
      return new Uint32Array(buffer);
    case DataType.INT16:
      return new Int16Array(buffer);
    case DataType.UINT16:
      return new Uint16Array(buffer);
    case DataType.INT8:
      return new Int8Array(buffer);
    case DataType.UINT8:
    case DataType.BOOL:
      return bytes;
    default:
      return null;
  }
}

function castConstant(constant: Constant, to: DataType): Constant {
  const convert = converter(to);
  return { dims: constant.dims, dataType: to, data: Float64Array.from(constant.data, convert) };
}

/** What the operator Cast does to one number, exact but for wrap-around of integers out of range. */
export function converter(to: DataType): (value: number) => number {
  switch (to) {
    case DataType.BOOL:
      return value => (value !== 0 ? 1 : 0);
    case DataType.FLOAT:
      return Math.fround;
    case DataType.FLOAT16:
      return roundToHalf;
    case DataType.DOUBLE:
    case DataType.BFLOAT16:
      return value => value;
    default:
      return Math.trunc;
  }
}

/** Nearest float16, ties to even. */
function roundToHalf(value: number): number {
  const magnitude = Math.abs(value);
  if (magnitude >= 65520) return value * Number.POSITIVE_INFINITY;
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude)));
  const unit = 2 ** (exponent - 10);
  const steps = value / unit;
  const floor = Math.floor(steps);
  const rest = steps - floor;
  return (rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor) * unit;
}
