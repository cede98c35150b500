import assert from 'node:assert/strict';
import { tensorFrom } from '../../../cli/data/tensor.js';
import { difference } from '../../../cli/validation/difference.js';

const NaN_ = Number.NaN;
const Inf = Number.POSITIVE_INFINITY;
const tensor = (...values: number[]) => tensorFrom('float32', [values.length], values);

describe('difference', () => {
  it('measures squared error, largest difference and cosine', () => {
    const measured = difference(tensor(3, 4), tensor(3, 5));
    assert.equal(measured.relative_squared_error, 1 / 25);
    assert.equal(measured.max_abs_error, 1);
    assert.ok(Math.abs(measured.cosine! - 29 / Math.sqrt(25 * 34)) < 1e-12);
    assert.equal(measured.mismatches, 0);
  });

  it('is zero for equal tensors, zeros included', () => {
    assert.deepEqual(difference(tensor(0, 0), tensor(0, 0)), {
      relative_squared_error: 0,
      max_abs_error: 0,
      cosine: 1,
      mismatches: 0,
    });
  });

  it('has no relative error against zeros', () => {
    assert.equal(difference(tensor(0, 0), tensor(0, 1)).relative_squared_error, null);
  });

  it('lets NaN and infinities pass only where the original has the same', () => {
    assert.equal(
      difference(tensor(1, NaN_, Inf, -Inf), tensor(1, NaN_, Inf, -Inf)).relative_squared_error,
      0,
    );
    for (const [expected, actual] of [
      [tensor(1, 2), tensor(1, NaN_)],
      [tensor(1, NaN_), tensor(1, 2)],
      [tensor(1, Inf), tensor(1, -Inf)],
      [tensor(1, Inf), tensor(1, NaN_)],
    ] as const) {
      const measured = difference(expected, actual);
      assert.equal(measured.mismatches, 1);
      assert.equal(measured.relative_squared_error, null);
      assert.equal(measured.cosine, null);
    }
  });

  it('leaves skipped elements out, whatever they hold', () => {
    const measured = difference(tensor(1, 2, NaN_), tensor(1, 9, 0), element => element > 0);
    assert.equal(measured.relative_squared_error, 0);
    assert.equal(measured.mismatches, 0);
  });

  it('takes a different shape as a mismatch of everything', () => {
    const measured = difference(tensorFrom('float32', [2, 1], [1, 2]), tensor(1, 2));
    assert.equal(measured.mismatches, 2);
    assert.equal(measured.relative_squared_error, null);
  });

  it('compares half precision and 64-bit integers by value', () => {
    assert.equal(
      difference(tensorFrom('float16', [2], [3, 4]), tensorFrom('float16', [2], [3, 5]))
        .relative_squared_error,
      1 / 25,
    );
    assert.equal(
      difference(tensorFrom('int64', [2], [3, 4]), tensorFrom('int64', [2], [3, 4])).relative_squared_error,
      0,
    );
  });
});
