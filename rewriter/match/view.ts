import { stridesOf } from '../probe/sample.js';

/** A run of elements at equal distance: `size` of them, `stride` apart in the source. */
export interface Factor {
  readonly size: number;
  readonly stride: number;
}

/**
 * How a tensor reads a source tensor without computing anything: each axis is a product of runs through the
 * source, outermost first. Transposing permutes axes, reshaping regroups runs, expanding adds runs of stride 0.
 * Runs are kept in canonical form (no run of size 1, neighbors joined where they can be), so two views are the
 * same map exactly when they are equal.
 */
export type View = readonly (readonly Factor[])[];

/** The tensor itself, row-major. */
export function identityView(dims: readonly number[]): View {
  const strides = stridesOf(dims);
  return dims.map((size, axis) => canonical([{ size, stride: strides[axis]! }]));
}

export function transposeView(view: View, perm: readonly number[]): View {
  return perm.map(axis => view[axis]!);
}

/**
 * What a Transpose node makes of a view.
 * @param perm the node's attribute; null where it is absent, which reverses the axes
 * @returns null when it is no permutation of the view's axes
 */
export function transposedByNode(view: View, perm: readonly number[] | null): View | null {
  const axes = view.map((_, axis) => axis);
  const order = perm ?? axes.toReversed();
  return order.length === axes.length && axes.every(axis => order.includes(axis))
    ? transposeView(view, order)
    : null;
}

/** Regroups the elements in row-major order; null when the target splits a run where it has no seam. */
export function reshapeView(view: View, dims: readonly number[]): View | null {
  const runs = canonical(view.flat());
  const result: Factor[][] = [];
  let next = runs.shift();
  for (const dim of dims) {
    const axis: Factor[] = [];
    let rest = dim;
    while (rest > 1) {
      if (next === undefined) return null;
      if (rest % next.size === 0) {
        axis.push(next);
        rest /= next.size;
        next = runs.shift();
      } else if (next.size % rest === 0) {
        const inner: number = next.size / rest;
        axis.push({ size: rest, stride: next.stride * inner });
        next = { size: inner, stride: next.stride };
        rest = 1;
      } else return null;
    }
    result.push(canonical(axis));
  }
  return next === undefined ? result : null;
}

/** Repeats axes of size 1 and puts new ones in front, as broadcasting does. */
export function expandView(view: View, dims: readonly number[]): View {
  const lead = dims.length - view.length;
  return dims.map((dim, axis) => {
    const runs = view[axis - lead];
    return runs === undefined || sizeOfRuns(runs) === 1 ? canonical([{ size: dim, stride: 0 }]) : runs;
  });
}

/** Repeats whole axes, one after the other. */
export function tileView(view: View, repeats: readonly number[]): View {
  return view.map((runs, axis) => canonical([{ size: repeats[axis] ?? 1, stride: 0 }, ...runs]));
}

export function sizeOfRuns(runs: readonly Factor[]): number {
  return runs.reduce((product, run) => product * run.size, 1);
}

export function sameRuns(left: readonly Factor[], right: readonly Factor[]): boolean {
  return (
    left.length === right.length &&
    left.every((run, i) => run.size === right[i]!.size && run.stride === right[i]!.stride)
  );
}

/** Drops runs of size 1 and joins a run with the one inside it where together they are one. */
export function canonical(runs: readonly Factor[]): Factor[] {
  const result: Factor[] = [];
  for (const run of runs) {
    const last = result.at(-1);
    if (run.size === 1) continue;
    if (last !== undefined && last.stride === run.size * run.stride) {
      result[result.length - 1] = { size: last.size * run.size, stride: run.stride };
    } else result.push(run);
  }
  return result;
}
