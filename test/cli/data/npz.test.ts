import assert from 'node:assert/strict';
import { decodeNpy, encodeNpy } from '../../../cli/data/npy.js';
import { decodeNpz, encodeNpz } from '../../../cli/data/npz.js';
import { type ElementType, type TensorValue, tensorFrom } from '../../../cli/data/tensor.js';

const TYPES: readonly ElementType[] = [
  'float32',
  'float64',
  'float16',
  'int8',
  'int16',
  'int32',
  'int64',
  'uint8',
  'uint16',
  'uint32',
  'uint64',
  'bool',
];

describe('NumPy arrays', () => {
  for (const type of TYPES) {
    it(`keeps ${type} arrays of any rank`, () => {
      for (const dims of [[], [0], [5], [2, 3], [2, 0, 3], [2, 1, 3, 2]]) {
        const count = dims.reduce((a, b) => a * b, 1);
        const values = Array.from({ length: count }, (_, i) => (type.startsWith('float') ? i - 1.5 : i));
        const tensor = tensorFrom(type, dims, values);
        assert.deepEqual(decodeNpy(encodeNpy(tensor)), tensor);
      }
    });
  }

  it('reads a file as NumPy writes it, from an unaligned position', () => {
    const header = "{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }".padEnd(117);
    const file = Buffer.concat([
      Buffer.from('\x93NUMPY\x01\x00', 'latin1'),
      Buffer.from([118, 0]),
      Buffer.from(`${header}\n`),
      Buffer.from(BigInt64Array.of(7n, -1n, 2n ** 53n).buffer),
    ]);
    const shifted = Buffer.concat([Buffer.from([0, 0, 0]), file]).subarray(3);
    assert.deepEqual(decodeNpy(shifted), {
      type: 'int64',
      dims: [3],
      data: BigInt64Array.of(7n, -1n, 2n ** 53n),
    });
  });

  it('reads column-major arrays', () => {
    const rowMajor = tensorFrom('int32', [2, 3], [0, 2, 4, 1, 3, 5]);
    const bytes = Buffer.from(encodeNpy(rowMajor));
    const marked = Buffer.from(bytes.toString('latin1').replace('False', 'True '), 'latin1');
    // Read column by column, the six stored numbers fill the columns of the array.
    assert.deepEqual(decodeNpy(marked), tensorFrom('int32', [2, 3], [0, 4, 3, 2, 1, 5]));
  });

  it('says what is wrong with a file', () => {
    const good = Buffer.from(encodeNpy(tensorFrom('float32', [4], [1, 2, 3, 4])));
    const edited = (from: string, to: string) =>
      Buffer.from(good.toString('latin1').replace(from, to), 'latin1');
    assert.throws(() => decodeNpy(Buffer.from('nothing like it')), /not a NumPy array/);
    assert.throws(() => decodeNpy(good.subarray(0, good.length - 1)), /needs 16 bytes, 15 are there/);
    assert.throws(() => decodeNpy(edited('<f4', '>f4')), /big-endian/);
    assert.throws(() => decodeNpy(edited('<f4', '<c8')), /<c8 has no ONNX counterpart/);
  });
});

describe('NumPy archives', () => {
  it('keeps names and arrays', () => {
    const tensors = new Map<string, TensorValue>([
      ['input_ids', tensorFrom('int64', [1, 3], [1, 2, 3])],
      ['past.0/key', tensorFrom('float32', [2], [0.5, Number.NaN])],
    ]);
    assert.deepEqual(decodeNpz(encodeNpz(tensors)), tensors);
  });

  it('names the array that cannot be read', () => {
    const archive = encodeNpz(new Map([['ids', tensorFrom('int64', [1], [1])]]));
    const broken = Buffer.from(Buffer.from(archive).toString('latin1').replace('<i8', '<M8'), 'latin1');
    assert.throws(() => decodeNpz(broken), /array "ids": dtype <M8/);
  });
});
