import { converter } from '../graph/constants.js';
import { elementCount } from '../onnx/element-size.js';
import type { DataType } from '../onnx/spec.js';

/** A tensor at sample sizes: its shape, its element type, and its elements on demand. */
export interface Sample {
  readonly dims: readonly number[];
  readonly dataType: DataType;
  /** Element by row-major index; a bool is 0 or 1. */
  readonly at: (index: number) => number;
}

/** A value that cannot be followed: its shape is unknown or an operator before it is. */
export class UnknownSample extends Error {
  /** The message names the node. */
  located = false;
}

/** Two sizes that do not fit together: they have to be equal, or the left one a multiple of the right one. */
export class SizeConflict extends UnknownSample {
  constructor(
    readonly left: number,
    readonly right: number,
    where: string,
    readonly need: 'equal' | 'multiple' = 'equal',
  ) {
    super(`sizes ${left} and ${right} do not fit in ${where}`);
    this.located = true;
  }
}

export const sizeOf = elementCount;

/** Most elements that an operator may have to hold at once. */
const MOST_ELEMENTS = 1 << 22;

/** All elements of a sample. */
export function elements(sample: Sample): Float64Array {
  const count = sizeOf(sample.dims);
  if (count > MOST_ELEMENTS) throw new UnknownSample(`${count} elements are too many to look at`);
  return Float64Array.from({ length: count }, (_, i) => sample.at(i));
}

/** Row-major strides, in elements. */
export function stridesOf(dims: readonly number[]): number[] {
  const strides = new Array<number>(dims.length);
  let stride = 1;
  for (let axis = dims.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= dims[axis]!;
  }
  return strides;
}

/** Shape that operands broadcast to. */
export function broadcastDims(shapes: readonly (readonly number[])[], where: string): number[] {
  const rank = Math.max(...shapes.map(shape => shape.length));
  return Array.from({ length: rank }, (_, axis) => {
    let size = 1;
    for (const shape of shapes) {
      const dim = shape[axis - rank + shape.length] ?? 1;
      if (dim === 1 || dim === size) continue;
      if (size !== 1) throw new SizeConflict(size, dim, where);
      size = dim;
    }
    return size;
  });
}

/** Reads `sample` by an index into the shape that it broadcasts to. */
export function broadcastReader(sample: Sample, dims: readonly number[]): (index: number) => number {
  const { at } = sample;
  if (sizeOf(sample.dims) === 1) return () => at(0);
  const lead = dims.length - sample.dims.length;
  if (lead >= 0 && sample.dims.every((dim, axis) => dim === dims[axis + lead])) {
    const size = sizeOf(sample.dims);
    return size === sizeOf(dims) ? at : index => at(index % size);
  }
  const strides = stridesOf(sample.dims).map((stride, axis) => (sample.dims[axis] === 1 ? 0 : stride));
  return stridedReader(at, dims, [...new Array<number>(lead).fill(0), ...strides], 0);
}

/** Reads a buffer through strides: element [i, j, ...] of `dims` is at `offset + i * strides[0] + ...`. */
export function stridedReader<T>(
  at: (index: number) => T,
  dims: readonly number[],
  strides: readonly number[],
  offset: number,
): (index: number) => T {
  return index => {
    let rest = index;
    let position = offset;
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      const dim = dims[axis]!;
      position += (rest % dim) * strides[axis]!;
      rest = Math.floor(rest / dim);
    }
    return at(position);
  };
}

/** Coordinates of a row-major index. */
export function coordinates(index: number, dims: readonly number[]): number[] {
  const result = new Array<number>(dims.length);
  let rest = index;
  for (let axis = dims.length - 1; axis >= 0; axis--) {
    result[axis] = rest % dims[axis]!;
    rest = Math.floor(rest / dims[axis]!);
  }
  return result;
}

/** Row-major index of coordinates. */
export function indexOf(position: readonly number[], dims: readonly number[]): number {
  let index = 0;
  for (let axis = 0; axis < dims.length; axis++) index = index * dims[axis]! + position[axis]!;
  return index;
}

/** An axis counted from the front; `rank` is the rank that it counts in. */
export function axisOf(axis: number, rank: number): number {
  const result = axis < 0 ? axis + rank : axis;
  if (result < 0 || result >= rank) throw new UnknownSample(`axis ${axis} of rank ${rank}`);
  return result;
}

/** Elements by index that are worked out when they are first asked for. */
class Remembered {
  private few: Map<number, number> | null = new Map();
  private values = new Float64Array(0);
  private known = new Uint8Array(0);
  /** Single elements are kept one by one until they are an eighth of all. */
  private readonly most: number;

  constructor(
    private readonly compute: (index: number) => number,
    private readonly count: number,
  ) {
    this.most = Math.max(8, count / 8);
  }

  at(index: number): number {
    if (this.few !== null) return this.amongFew(this.few, index);
    if (this.known[index] === 0) {
      this.values[index] = this.compute(index);
      this.known[index] = 1;
    }
    return this.values[index]!;
  }

  private amongFew(few: Map<number, number>, index: number): number {
    let value = few.get(index);
    if (value === undefined) {
      value = this.compute(index);
      few.set(index, value);
      if (few.size > this.most) this.makeRoom(few);
    }
    return value;
  }

  private makeRoom(few: Map<number, number>): void {
    this.values = new Float64Array(this.count);
    this.known = new Uint8Array(this.count);
    for (const [index, value] of few) {
      this.values[index] = value;
      this.known[index] = 1;
    }
    this.few = null;
  }
}

/** Remembers elements that are costly or shared. Most samples are looked at for their shape alone. */
export function remembered(sample: Sample): Sample {
  const { dims, dataType, at } = sample;
  let known: Remembered | null = null;
  return {
    dims,
    dataType,
    at: index => {
      known ??= new Remembered(at, sizeOf(dims));
      return known.at(index);
    },
  };
}

/** A sample whose elements are rounded as its type rounds them. */
export function rounded(dims: readonly number[], dataType: DataType, at: (index: number) => number): Sample {
  const convert = converter(dataType);
  return { dims, dataType, at: index => convert(at(index)) };
}
