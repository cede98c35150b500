import assert from 'node:assert/strict';
import { decodeJsonTensors, encodeJsonTensors } from '../../../cli/data/json-tensors.js';
import { type TensorValue, tensorFrom } from '../../../cli/data/tensor.js';

describe('JSON tensors', () => {
  it('takes the type of the input, or guesses it', () => {
    const tensors = decodeJsonTensors(
      '{"ids": [[1, 2], [3, 4]], "mask": [true, false], "x": [1, 0.5]}',
      name => (name === 'ids' ? 'int32' : undefined),
    );
    assert.deepEqual(tensors.get('ids'), tensorFrom('int32', [2, 2], [1, 2, 3, 4]));
    assert.deepEqual(tensors.get('mask'), tensorFrom('bool', [2], [1, 0]));
    assert.deepEqual(tensors.get('x'), tensorFrom('float32', [2], [1, 0.5]));
  });

  it('reads what it writes, NaN included', () => {
    const tensors = new Map<string, TensorValue>([
      ['a', tensorFrom('float32', [2, 1], [1.5, Number.NaN])],
      ['b', tensorFrom('int64', [0, 3], [])],
    ]);
    const read = decodeJsonTensors(encodeJsonTensors(tensors), () => undefined);
    assert.deepEqual(read, tensors);
  });

  it('says what is wrong, naming the input', () => {
    const decode = (text: string) => () => decodeJsonTensors(text, () => 'int64');
    assert.throws(decode('{"ids": [[1, 2], [3]]}'), /input "ids": rows of different lengths/);
    assert.throws(decode('{"ids": [["a"]]}'), /input "ids": "a" is not a number/);
    assert.throws(decode('{"ids": {"dims": [2], "data": [1]}}'), /shape \[2\] holds 2 elements, not 1/);
    assert.throws(decode('{"ids": {"dims": [1], "type": "int3", "data": [1]}}'), /unknown type "int3"/);
    assert.throws(decode('{"ids": [[1, 1.5]]}'), /input "ids": 1.5 is not an element of int64/);
    assert.throws(decode('{"ids": [null]}'), /input "ids": null is not an element of int64/);
    assert.throws(decode('{"ids": [9007199254740993]}'), /is not an element of int64/);
    for (const [type, number] of [
      ['uint8', -1],
      ['int8', 128],
      ['uint32', 2 ** 32],
      ['bool', 2],
    ]) {
      const document = JSON.stringify({ x: { dims: [1], type, data: [number] } });
      assert.throws(decode(document), new RegExp(`input "x": ${number} is not an element of ${type}`));
    }
    assert.throws(decode('[1]'), /not an object/);
  });
});
