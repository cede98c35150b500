import assert from 'node:assert/strict';
import { SeededRandom } from '../../../custom-ops/seeded-random.js';
import {
  canonical,
  expandView,
  identityView,
  reshapeView,
  sameRuns,
  sizeOfRuns,
  tileView,
  transposeView,
  type View,
} from '../../../rewriter/match/view.js';
import { coordinates, stridesOf } from '../../../rewriter/probe/sample.js';

/** Offset in the source that each element of the view reads, in row-major order. */
function offsets(view: View): number[] {
  const dims = view.map(sizeOfRuns);
  const count = dims.reduce((product, dim) => product * dim, 1);
  return Array.from({ length: count }, (_, i) =>
    coordinates(i, dims).reduce((sum, position, axis) => {
      const runs = view[axis]!;
      const within = coordinates(
        position,
        runs.map(run => run.size),
      );
      return sum + within.reduce((part, p, r) => part + p * runs[r]!.stride, 0);
    }, 0),
  );
}

/** The same by moving an array of offsets about. */
class Moved {
  constructor(
    readonly dims: readonly number[],
    readonly elements: readonly number[],
  ) {}

  transpose(perm: readonly number[]): Moved {
    const dims = perm.map(axis => this.dims[axis]!);
    const strides = stridesOf(this.dims);
    return new Moved(
      dims,
      this.elements.map((_, i) => {
        const position = coordinates(i, dims);
        return this.elements[position.reduce((sum, p, axis) => sum + p * strides[perm[axis]!]!, 0)]!;
      }),
    );
  }
}

describe('views', () => {
  it('read what random chains of moves read', () => {
    const random = new SeededRandom(3);
    const pick = <T>(items: readonly T[]): T => items[random.below(items.length)]!;
    let reshaped = 0;
    for (let round = 0; round < 300; round++) {
      const dims = [pick([1, 2, 3]), pick([2, 4, 6]), pick([1, 3, 4])];
      let view: View = identityView(dims);
      const count = dims.reduce((product, dim) => product * dim, 1);
      let moved = new Moved(
        dims,
        Array.from({ length: count }, (_, i) => i),
      );
      for (let step = 0; step < 4; step++) {
        if (random.below(2) === 0) {
          const perm = moved.dims.map((_, axis) => axis).sort(() => random.uniform() - 0.5);
          view = transposeView(view, perm);
          moved = moved.transpose(perm);
        } else {
          const first = pick([1, 2, 3, 4, 6].filter(size => count % size === 0));
          const target = [first, count / first];
          const next = reshapeView(view, target);
          if (next === null) continue;
          reshaped++;
          view = next;
          moved = new Moved(target, moved.elements);
        }
        assert.deepEqual(view.map(sizeOfRuns), moved.dims);
        assert.deepEqual(offsets(view), moved.elements);
      }
    }
    assert.ok(reshaped > 100);
  });

  it('are equal exactly when they are the same map', () => {
    const source = identityView([2, 3, 4]);
    const there = transposeView(source, [1, 0, 2]);
    const back = transposeView(there, [1, 0, 2]);
    const same = (one: View, other: View) => one.every((runs, axis) => sameRuns(runs, other[axis]!));
    assert.ok(same(source, back));
    assert.ok(!same(source, transposeView(identityView([3, 2, 4]), [1, 0, 2])));
  });

  it('split and join axes only where there are seams', () => {
    const heads = reshapeView(identityView([2, 5, 12]), [2, 5, 3, 4])!;
    assert.deepEqual(reshapeView(heads, [2, 5, 12]), identityView([2, 5, 12]));
    const swapped = transposeView(heads, [0, 2, 1, 3]);
    assert.equal(sizeOfRuns(reshapeView(swapped, [6, 5, 4])![0]!), 6);
    assert.equal(reshapeView(identityView([4, 3]), [6, 2])?.length, 2);
    assert.equal(reshapeView(transposeView(identityView([4, 3]), [1, 0]), [2, 6]), null);
    assert.equal(reshapeView(identityView([4]), [5]), null);
  });

  it('repeat by runs of stride 0', () => {
    const groups = expandView(reshapeView(identityView([2, 3]), [2, 1, 3])!, [2, 4, 3]);
    assert.deepEqual(reshapeView(groups, [8, 3])![0], [
      { size: 2, stride: 3 },
      { size: 4, stride: 0 },
    ]);
    assert.deepEqual(offsets(tileView(identityView([2]), [3])), [0, 1, 0, 1, 0, 1]);
  });

  it('are kept in canonical form', () => {
    const runs = [
      { size: 1, stride: 99 },
      { size: 2, stride: 6 },
      { size: 3, stride: 2 },
      { size: 2, stride: 1 },
    ];
    assert.deepEqual(canonical(runs), [{ size: 12, stride: 1 }]);
  });
});
