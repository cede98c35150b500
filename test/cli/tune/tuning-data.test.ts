import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ModelInput } from '../../../cli/data/model-inputs.js';
import { encodeNpz } from '../../../cli/data/npz.js';
import { type TensorValue, tensorFrom, toNumbers } from '../../../cli/data/tensor.js';
import { type DataRequest, type DataWindow, readTuningData } from '../../../cli/tune/tuning-data.js';
import { InputError } from '../../../rewriter/errors.js';
import { temporaryFolder } from '../../temporary-folder.js';

const IDS: ModelInput = { name: 'ids', type: 'int64', dims: ['batch', 'sequence'], vocabulary: 257 };
const MASK: ModelInput = {
  name: 'attention_mask',
  type: 'int64',
  dims: ['batch', 'sequence'],
  vocabulary: null,
};
const INPUTS = [IDS, MASK];

describe('data for tuning', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  function text(name: string, bytes: number): string {
    writeFileSync(
      path(name),
      Uint8Array.from({ length: bytes }, (_, i) => i % 251),
    );
    return path(name);
  }

  function arrays(name: string, tensors: Record<string, TensorValue>): string {
    writeFileSync(path(name), encodeNpz(new Map(Object.entries(tensors))));
    return path(name);
  }

  const read = (files: readonly string[], request: Partial<DataRequest> = {}) =>
    readTuningData(
      { files, tokenizer: null, length: null, windows: 3, seed: 1, hide: null, ...request },
      INPUTS,
    );
  const idsOf = ({ feeds }: DataWindow) => Array.from(toNumbers(feeds.get('ids')!));
  const refused = (pattern: RegExp) => (error: unknown) =>
    error instanceof InputError && error.details.remedy !== undefined && pattern.test(error.message);

  it('deals disjoint windows of a text over both halves, the same for one seed', () => {
    const files = [text('a.txt', 1000), text('b.txt', 500)];
    const data = read(files, { length: 100, windows: 4 });
    assert.equal(data.calibration.length, 4);
    assert.equal(data.heldOut.length, 4);
    const names = [...data.calibration, ...data.heldOut].map(({ name }) => name);
    assert.equal(new Set(names).size, 8);
    assert.ok(names.some(name => name.includes('b.txt')));
    for (const window of data.calibration) {
      const start = Number(window.name.split(' at ')[1]);
      assert.deepEqual(
        idsOf(window),
        Array.from({ length: 100 }, (_, i) => (start + i) % 251),
      );
      assert.deepEqual(new Set(toNumbers(window.feeds.get('attention_mask')!) as Float64Array), new Set([1]));
    }
    const again = read(files, { length: 100, windows: 4 });
    assert.equal(again.hash, data.hash);
    assert.deepEqual(
      again.calibration.map(({ name }) => name),
      data.calibration.map(({ name }) => name),
    );
    const other = read(files, { length: 100, windows: 4, seed: 2 });
    assert.notDeepEqual(
      other.calibration.map(({ name }) => name),
      data.calibration.map(({ name }) => name),
    );
  });

  it('takes rows of arrays as windows, cut to a length, with what is no input as extras', () => {
    const ids = Array.from({ length: 60 }, (_, i) => i);
    const file = arrays('data.npz', {
      ids: tensorFrom('int64', [2, 30], ids),
      labels: tensorFrom('int64', [2, 30], ids),
      grade: tensorFrom('float32', [2], [0.5, 0.75]),
    });
    const whole = read([file]);
    assert.equal(whole.length, 30);
    assert.deepEqual([whole.calibration.length, whole.heldOut.length], [1, 1]);
    const cut = read([file], { length: 10 });
    const windows = [...cut.calibration, ...cut.heldOut];
    assert.equal(windows.length, 6);
    for (const window of windows) {
      const first = idsOf(window)[0]!;
      assert.equal(first % 10, 0);
      assert.deepEqual(idsOf(window), ids.slice(first, first + 10));
      assert.deepEqual(Array.from(toNumbers(window.extras.get('labels')!)), idsOf(window));
      assert.deepEqual(Array.from(toNumbers(window.extras.get('grade')!)), [first < 30 ? 0.5 : 0.75]);
    }
  });

  it('hides spans of tokens and makes labels of them', () => {
    const data = read([text('a.txt', 8000)], {
      length: 2000,
      windows: 2,
      hide: { id: 256, span: 5, share: 0.15 },
    });
    const plain = read([text('a.txt', 8000)], { length: 2000, windows: 2 });
    for (const [w, window] of data.calibration.entries()) {
      const original = idsOf(plain.calibration[w]!);
      const labels = Array.from(toNumbers(window.extras.get('labels')!));
      const hidden = idsOf(window).flatMap((id, i) => (id === 256 ? [i] : []));
      assert.ok(hidden.length > 100 && hidden.length < 600, `${hidden.length} hidden`);
      for (const [i, id] of original.entries()) {
        const isHidden = hidden.includes(i);
        assert.equal(labels[i], isHidden ? id : -100);
        assert.equal(idsOf(window)[i], isHidden ? 256 : id);
      }
    }
    assert.notEqual(data.hash, plain.hash);
    const more = read([text('a.txt', 8000)], {
      length: 2000,
      windows: 2,
      hide: { id: 256, span: 5, share: 0.6 },
    });
    const hiddenIn = ({ calibration }: typeof data) =>
      calibration.flatMap(idsOf).filter(id => id === 256).length;
    assert.ok(hiddenIn(more) > 2 * hiddenIn(data));
  });

  it('says what is wrong with data', () => {
    const short = text('short.txt', 150);
    assert.throws(() => read([short], { length: 100 }), refused(/too short: one window of 100 tokens/));
    assert.throws(() => read([short], { length: 200 }), refused(/too short: no window of 200 tokens/));
    assert.throws(() => read([short]), refused(/has no length of its own/));
    const ids = (length: number) => tensorFrom('int64', [2, length], new Array(2 * length).fill(1));
    const files = [arrays('a.npz', { ids: ids(10) }), arrays('b.npz', { ids: ids(20) })];
    assert.throws(() => read(files), refused(/different lengths \(10, 20\)/));
    assert.throws(() => read(files, { length: 15 }), refused(/have 10 tokens, not 15/));
    const unknown = arrays('unknown.npz', { ids: tensorFrom('int64', [2, 2], [0, 1, 257, 2]) });
    assert.throws(() => read([unknown]), refused(/has the id 257, and the model knows ids up to 256/));
    const pixels: ModelInput = { name: 'pixels', type: 'float32', dims: ['batch', 2], vocabulary: null };
    const broken = arrays('broken.npz', { pixels: tensorFrom('float32', [2, 2], [1, 2, Number.NaN, 4]) });
    const request = { files: [broken], tokenizer: null, length: null, windows: 1, seed: 1, hide: null };
    assert.throws(() => readTuningData(request, [pixels]), refused(/row 1 at 0: input "pixels" has NaN/));
    assert.throws(() => read([arrays('c.npz', { labels: ids(10) })]), refused(/input "ids" is missing/));
    assert.throws(
      () => read([short], { length: 50, hide: { id: 257, span: 1, share: 0.15 } }),
      refused(/ids up to 256/),
    );
  });
});
