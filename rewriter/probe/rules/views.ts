import type { NodeInputs } from '../probe.js';
import {
  axisOf,
  broadcastDims,
  broadcastReader,
  coordinates,
  elements,
  indexOf,
  type Sample,
  SizeConflict,
  sizeOf,
  stridedReader,
  stridesOf,
  UnknownSample,
} from '../sample.js';
import type { Rules } from './rule.js';

/** Operators that only move elements. */

function same(inputs: NodeInputs): readonly (Sample | null)[] {
  return [inputs.sample(0)];
}

/** Shape that Reshape gives: 0 keeps a dimension unless `allowzero`, -1 is what is left. */
export function reshapeDims(
  from: readonly number[],
  target: readonly number[],
  allowZero: boolean,
  where: string,
): number[] {
  const dims = target.map((dim, axis) => (dim === 0 && !allowZero ? (from[axis] ?? 0) : dim));
  const open = dims.indexOf(-1);
  const total = sizeOf(from);
  if (open >= 0) {
    const rest = dims.reduce((product, dim, axis) => (axis === open ? product : product * dim), 1);
    if (rest !== 0 && total % rest !== 0) throw new SizeConflict(total, rest, where, 'multiple');
    dims[open] = rest === 0 ? 0 : total / rest;
  }
  if (sizeOf(dims) !== total || dims.some(dim => dim < 0)) throw new SizeConflict(total, sizeOf(dims), where);
  return dims;
}

function reshape(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const target = inputs.integersOrAttribute(1, 'shape') ?? [];
  return [
    { ...x, dims: reshapeDims(x.dims, target, inputs.node.int('allowzero', 0) === 1, inputs.node.label) },
  ];
}

function flatten(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const { length } = x.dims;
  const given = inputs.node.int('axis', 1);
  const axis = given < 0 ? given + length : given;
  return [{ ...x, dims: [sizeOf(x.dims.slice(0, axis)), sizeOf(x.dims.slice(axis))] }];
}

/** Shape with axes of size 1 put in, the axes counted in the result. */
export function unsqueezeDims(from: readonly number[], axes: readonly number[]): number[] {
  const rank = from.length + axes.length;
  const inserted = new Set(axes.map(axis => axisOf(axis, rank)));
  const rest = from[Symbol.iterator]();
  return Array.from({ length: rank }, (_, axis) => (inserted.has(axis) ? 1 : rest.next().value!));
}

function unsqueeze(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  return [{ ...x, dims: unsqueezeDims(x.dims, inputs.integersOrAttribute(1, 'axes') ?? []) }];
}

/** Shape without the given axes, or without every axis of size 1. */
export function squeezeDims(
  from: readonly number[],
  axes: readonly number[] | null,
  where: string,
): number[] {
  const dropped = new Set(axes?.map(axis => axisOf(axis, from.length)));
  for (const axis of dropped) if (from[axis] !== 1) throw new SizeConflict(from[axis]!, 1, where);
  return from.filter((dim, axis) => (axes === null ? dim !== 1 : !dropped.has(axis)));
}

function squeeze(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  return [{ ...x, dims: squeezeDims(x.dims, inputs.integersOrAttribute(1, 'axes'), inputs.node.label) }];
}

function transpose(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const rank = x.dims.length;
  const perm = inputs.node.ints('perm') ?? x.dims.map((_, axis) => rank - 1 - axis);
  if (perm.length !== rank || x.dims.some((_, axis) => !perm.includes(axis))) {
    throw new UnknownSample(`${inputs.node.label} permutes [${perm}] where there are ${rank} axes`);
  }
  const strides = stridesOf(x.dims);
  const dims = perm.map(axis => x.dims[axis]!);
  return [
    {
      ...x,
      dims,
      at: stridedReader(
        x.at,
        dims,
        perm.map(axis => strides[axis]!),
        0,
      ),
    },
  ];
}

function expand(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const dims = broadcastDims([x.dims, inputs.integers(1) ?? []], inputs.node.label);
  return [{ ...x, dims, at: broadcastReader(x, dims) }];
}

function tile(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const repeats = inputs.integers(1) ?? [];
  const dims = x.dims.map((dim, axis) => dim * (repeats[axis] ?? 1));
  const at = (index: number) =>
    x.at(
      indexOf(
        coordinates(index, dims).map((position, axis) => position % x.dims[axis]!),
        x.dims,
      ),
    );
  return [{ ...x, dims, at }];
}

function concat(inputs: NodeInputs): readonly Sample[] {
  const parts = inputs.all();
  const first = parts[0]!;
  const axis = axisOf(inputs.node.int('axis', 0), first.dims.length);
  for (const part of parts) {
    part.dims.forEach((dim, other) => {
      if (other !== axis && dim !== first.dims[other])
        throw new SizeConflict(first.dims[other]!, dim, inputs.node.label);
    });
  }
  const dims = first.dims.map((dim, other) =>
    other === axis ? parts.reduce((sum, part) => sum + part.dims[axis]!, 0) : dim,
  );
  const at = (index: number) => {
    const position = coordinates(index, dims);
    for (const part of parts) {
      if (position[axis]! < part.dims[axis]!) return part.at(indexOf(position, part.dims));
      position[axis]! -= part.dims[axis]!;
    }
    throw new UnknownSample(`index ${index} leaves ${inputs.node.label}`);
  };
  return [{ ...first, dims, at }];
}

function slice(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const { node } = inputs;
  const starts = inputs.integersOrAttribute(1, 'starts') ?? [];
  const ends = inputs.integersOrAttribute(2, 'ends') ?? [];
  const axes = inputs.integersOrAttribute(3, 'axes') ?? starts.map((_, axis) => axis);
  const steps = inputs.integers(4) ?? starts.map(() => 1);
  const dims = [...x.dims];
  const strides = stridesOf(x.dims);
  let offset = 0;
  axes.forEach((given, i) => {
    const axis = axisOf(given, x.dims.length);
    const size = x.dims[axis]!;
    const step = steps[i]!;
    if (step === 0) throw new UnknownSample(`${node.label} has step 0`);
    const wrap = (bound: number) => (bound < 0 ? bound + size : bound);
    const clamp = (bound: number, least: number, most: number) => Math.min(Math.max(bound, least), most);
    const [least, most] = step > 0 ? [0, size] : [-1, size - 1];
    const start = clamp(wrap(starts[i]!), step > 0 ? 0 : least, most);
    const end = clamp(wrap(ends[i]!), least, most);
    dims[axis] = Math.max(0, Math.ceil((end - start) / step));
    offset += start * strides[axis]!;
    strides[axis]! *= step;
  });
  return [{ ...x, dims, at: stridedReader(x.at, dims, strides, offset) }];
}

function split(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const { node } = inputs;
  const axis = axisOf(node.int('axis', 0), x.dims.length);
  const size = x.dims[axis]!;
  const count = node.outputs.length;
  const each = Math.ceil(size / count);
  const lengths =
    inputs.integersOrAttribute(1, 'split') ??
    Array.from({ length: count }, (_, i) => Math.max(0, Math.min(each, size - i * each)));
  const strides = stridesOf(x.dims);
  let start = 0;
  return lengths.map(length => {
    const dims = x.dims.map((dim, other) => (other === axis ? length : dim));
    const at = stridedReader(x.at, dims, strides, start * strides[axis]!);
    start += length;
    return { ...x, dims, at };
  });
}

function wrapIndex(index: number, size: number, where: string): number {
  const result = index < 0 ? index + size : index;
  if (result < 0 || result >= size)
    throw new UnknownSample(`index ${index} leaves ${size} elements in ${where}`);
  return result;
}

function gather(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const indices = inputs.sample(1);
  const axis = axisOf(inputs.node.int('axis', 0), x.dims.length);
  const size = x.dims[axis]!;
  const inner = sizeOf(x.dims.slice(axis + 1));
  const middle = sizeOf(indices.dims);
  const at = (index: number) => {
    const within = index % inner;
    const picked = Math.floor(index / inner) % middle;
    const before = Math.floor(index / (inner * middle));
    const row = wrapIndex(indices.at(picked), size, inputs.node.label);
    return x.at((before * size + row) * inner + within);
  };
  return [{ ...x, dims: [...x.dims.slice(0, axis), ...indices.dims, ...x.dims.slice(axis + 1)], at }];
}

function gatherElements(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const indices = inputs.sample(1);
  const axis = axisOf(inputs.node.int('axis', 0), x.dims.length);
  const at = (index: number) => {
    const position = coordinates(index, indices.dims);
    position[axis] = wrapIndex(indices.at(index), x.dims[axis]!, inputs.node.label);
    return x.at(indexOf(position, x.dims));
  };
  return [{ ...x, dims: indices.dims, at }];
}

function gatherNd(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const indices = inputs.sample(1);
  const batch = inputs.node.int('batch_dims', 0);
  const depth = indices.dims.at(-1) ?? 0;
  const outer = indices.dims.slice(0, -1);
  const tail = x.dims.slice(batch + depth);
  const dims = [...outer, ...tail];
  const at = (index: number) => {
    const position = coordinates(index, dims);
    const row = indexOf(position.slice(0, outer.length), outer);
    const picked = Array.from({ length: depth }, (_, i) =>
      wrapIndex(indices.at(row * depth + i), x.dims[batch + i]!, inputs.node.label),
    );
    return x.at(indexOf([...position.slice(0, batch), ...picked, ...position.slice(outer.length)], x.dims));
  };
  return [{ ...x, dims, at }];
}

/** Later updates win, as they do in a runtime that applies them in order. */
function scatterNd(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const indices = inputs.sample(1);
  const updates = inputs.sample(2);
  if (inputs.node.text('reduction', 'none') !== 'none') return [inputs.data(x.dims, x.dataType)];
  const depth = indices.dims.at(-1) ?? 0;
  const block = sizeOf(x.dims.slice(depth));
  let sources: Map<number, number> | null = null;
  const at = (index: number) => {
    if (sources === null) {
      const flat = elements(indices);
      sources = new Map();
      for (let row = 0; row * depth < flat.length; row++) {
        const position = Array.from({ length: depth }, (_, i) =>
          wrapIndex(flat[row * depth + i]!, x.dims[i]!, inputs.node.label),
        );
        sources.set(indexOf(position, x.dims.slice(0, depth)), row);
      }
    }
    const row = sources.get(Math.floor(index / block));
    return row === undefined ? x.at(index) : updates.at(row * block + (index % block));
  };
  return [{ ...x, at }];
}

/** Shape only where updates are combined. */
function scatterElements(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const indices = inputs.sample(1);
  const updates = inputs.sample(2);
  const axis = axisOf(inputs.node.int('axis', 0), x.dims.length);
  if (inputs.node.text('reduction', 'none') !== 'none') return [inputs.data(x.dims, x.dataType)];
  let sources: Map<number, number> | null = null;
  const at = (index: number) => {
    if (sources === null) {
      sources = new Map();
      for (const [source, place] of elements(indices).entries()) {
        const position = coordinates(source, indices.dims);
        position[axis] = wrapIndex(place, x.dims[axis]!, inputs.node.label);
        sources.set(indexOf(position, x.dims), source);
      }
    }
    const source = sources.get(index);
    return source === undefined ? x.at(index) : updates.at(source);
  };
  return [{ ...x, at }];
}

function pad(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const pads = inputs.integersOrAttribute(1, 'pads') ?? [];
  const axes = inputs.integers(3)?.map(axis => axisOf(axis, x.dims.length)) ?? x.dims.map((_, axis) => axis);
  const before = new Array<number>(x.dims.length).fill(0);
  const dims = [...x.dims];
  axes.forEach((axis, i) => {
    before[axis] = pads[i]!;
    dims[axis]! += pads[i]! + pads[i + axes.length]!;
  });
  if (inputs.node.text('mode', 'constant') !== 'constant') return [inputs.data(dims, x.dataType)];
  const fill = inputs.optional(2)?.at(0) ?? inputs.node.float('value', 0);
  const at = (index: number) => {
    const position = coordinates(index, dims).map((p, axis) => p - before[axis]!);
    return position.every((p, axis) => p >= 0 && p < x.dims[axis]!) ? x.at(indexOf(position, x.dims)) : fill;
  };
  return [{ ...x, dims, at }];
}

function trilu(inputs: NodeInputs): readonly Sample[] {
  const x = inputs.sample(0);
  const upper = inputs.node.int('upper', 1) === 1;
  const diagonal = inputs.optional(1)?.at(0) ?? 0;
  const columns = x.dims.at(-1) ?? 0;
  const rows = x.dims.at(-2) ?? 0;
  const at = (index: number) => {
    const offset = (index % columns) - (Math.floor(index / columns) % rows) - diagonal;
    return (upper ? offset >= 0 : offset <= 0) ? x.at(index) : 0;
  };
  return [{ ...x, at }];
}

export const views: Rules = {
  Identity: same,
  Dropout: same,
  Reshape: reshape,
  Flatten: flatten,
  Unsqueeze: unsqueeze,
  Squeeze: squeeze,
  Transpose: transpose,
  Expand: expand,
  Tile: tile,
  Concat: concat,
  Slice: slice,
  Split: split,
  Gather: gather,
  GatherElements: gatherElements,
  GatherND: gatherNd,
  ScatterND: scatterNd,
  ScatterElements: scatterElements,
  Scatter: scatterElements,
  Pad: pad,
  Trilu: trilu,
};
