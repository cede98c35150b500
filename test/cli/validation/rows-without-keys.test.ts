import assert from 'node:assert/strict';
import { tensorFrom } from '../../../cli/data/tensor.js';
import { RowsWithoutKeys } from '../../../cli/validation/rows-without-keys.js';
import { DataType } from '../../../rewriter/onnx/spec.js';
import type { AttentionSite } from '../../../rewriter/site.js';

/** A cache whose batch rows end at keys of their own, seen through a window of two keys. */
const SITE = {
  computation: 'softmax',
  output: { value: 'y', layout: 'BHND', dataType: DataType.FLOAT, projection: null },
  window: { left: 1, right: 0 },
  causal: true,
  alignment: 'bottom-right',
  keyMask: { value: 'last', dataType: DataType.INT32, visible: 'last' },
  queryHeads: 1,
} as Partial<AttentionSite> as AttentionSite;

describe('rows without keys', () => {
  const empty = (rows: number, keys: number, last: readonly number[]) => {
    const output = tensorFrom('float32', [last.length, 1, rows, 1], new Float64Array(last.length * rows));
    return RowsWithoutKeys.ofSite(
      SITE,
      output,
      keys,
      tensorFrom('int32', [last.length], Float64Array.from(last)),
    );
  };

  it('stand at the last key of their own batch row', () => {
    assert.equal(empty(1, 9, [8, 2, 0]).count, 0);
  });

  it('are the padding behind a prompt, beyond the window', () => {
    const found = empty(5, 5, [4, 1]);
    assert.equal(found.count, 2);
    const isLeftOut = found.elementsOfSite(SITE, [2, 1, 5, 1])!;
    assert.deepEqual(Array.from({ length: 10 }, (_, element) => element).filter(isLeftOut), [8, 9]);
  });
});
