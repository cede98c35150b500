import { elementCount } from '../../rewriter/onnx/element-size.js';
import { float16ToFloat32, float32ToFloat16 } from '../../rewriter/onnx/float16.js';
import { DataType } from '../../rewriter/onnx/spec.js';

/** Element types that a session takes and gives, by the names of onnxruntime-common. */
export interface ElementArrays {
  float32: Float32Array;
  float64: Float64Array;
  /** IEEE half precision, as bits. */
  float16: Uint16Array;
  int8: Int8Array;
  int16: Int16Array;
  int32: Int32Array;
  int64: BigInt64Array;
  uint8: Uint8Array;
  uint16: Uint16Array;
  uint32: Uint32Array;
  uint64: BigUint64Array;
  /** One byte each, 0 or 1. */
  bool: Uint8Array;
}

export type ElementType = keyof ElementArrays;

/** A dense tensor by value, row-major; the form in which inputs and outputs travel between the modules. */
export type TensorValue = {
  readonly [T in ElementType]: {
    readonly type: T;
    readonly dims: readonly number[];
    readonly data: ElementArrays[T];
  };
}[ElementType];

export const ARRAY_TYPES = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
} as const satisfies Record<ElementType, unknown>;

/** The same types as ONNX numbers them. */
export const DATA_TYPES: Readonly<Record<ElementType, DataType>> = {
  float32: DataType.FLOAT,
  float64: DataType.DOUBLE,
  float16: DataType.FLOAT16,
  int8: DataType.INT8,
  int16: DataType.INT16,
  int32: DataType.INT32,
  int64: DataType.INT64,
  uint8: DataType.UINT8,
  uint16: DataType.UINT16,
  uint32: DataType.UINT32,
  uint64: DataType.UINT64,
  bool: DataType.BOOL,
};

/** The element type that ONNX numbers `dataType`; null for one without a JavaScript form. */
export function elementTypeOf(dataType: DataType): ElementType | null {
  const types = Object.keys(DATA_TYPES) as ElementType[];
  return types.find(type => DATA_TYPES[type] === dataType) ?? null;
}

export function isElementType(name: string): name is ElementType {
  return Object.hasOwn(ARRAY_TYPES, name);
}

/** The integers of a type, as far as a JavaScript number tells them apart. */
const INTEGERS: Partial<Record<ElementType, readonly [least: number, most: number]>> = {
  int8: [-(2 ** 7), 2 ** 7 - 1],
  int16: [-(2 ** 15), 2 ** 15 - 1],
  int32: [-(2 ** 31), 2 ** 31 - 1],
  int64: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  uint8: [0, 2 ** 8 - 1],
  uint16: [0, 2 ** 16 - 1],
  uint32: [0, 2 ** 32 - 1],
  uint64: [0, Number.MAX_SAFE_INTEGER],
  bool: [0, 1],
};

/** Whether a number that a user wrote is an element of `type`: integers are not rounded and do not wrap around. */
export function isElement(type: ElementType, value: number): boolean {
  const range = INTEGERS[type];
  return range === undefined || (Number.isInteger(value) && value >= range[0] && value <= range[1]);
}

/**
 * A tensor of `type` whose elements are `values` converted to it: integers and float16 round to nearest,
 * bool is 1 for every nonzero value.
 * @throws RangeError when `values` does not fill the shape
 */
export function tensorFrom(
  type: ElementType,
  dims: readonly number[],
  values: ArrayLike<number>,
): TensorValue {
  const count = elementCount(dims);
  if (values.length !== count) {
    throw new RangeError(
      `a tensor of shape [${dims.join(', ')}] holds ${count} elements, not ${values.length}`,
    );
  }
  switch (type) {
    case 'float32':
      return { type, dims, data: Float32Array.from(values) };
    case 'float64':
      return { type, dims, data: Float64Array.from(values) };
    case 'float16':
      return { type, dims, data: float32ToFloat16(Float32Array.from(values)) };
    case 'int64':
      return { type, dims, data: BigInt64Array.from(values, value => BigInt(Math.round(value))) };
    case 'uint64':
      return { type, dims, data: BigUint64Array.from(values, value => BigInt(Math.round(value))) };
    case 'bool':
      return { type, dims, data: Uint8Array.from(values, value => (value === 0 ? 0 : 1)) };
    default:
      return {
        type,
        dims,
        data: ARRAY_TYPES[type].from(Float64Array.from(values, Math.round)),
      } as TensorValue;
  }
}

/** The elements as numbers; 64-bit integers beyond 2^53 round. */
export function toNumbers(tensor: TensorValue): ArrayLike<number> {
  switch (tensor.type) {
    case 'int64':
    case 'uint64':
      return Float64Array.from(tensor.data, Number);
    case 'float16':
      return float16ToFloat32(tensor.data);
    default:
      return tensor.data;
  }
}
