import assert from 'node:assert/strict';
import { generateInputs } from '../../../cli/data/generate-inputs.js';
import { generatedSource } from '../../../cli/data/input-source.js';
import type { ModelInput } from '../../../cli/data/model-inputs.js';
import { toNumbers } from '../../../cli/data/tensor.js';
import { InputError } from '../../../rewriter/errors.js';

function input(
  name: string,
  type: ModelInput['type'],
  dims: ModelInput['dims'],
  vocabulary?: number,
): ModelInput {
  return { name, type, dims, vocabulary: vocabulary ?? null };
}

const OPTIONS = { length: 12, batch: 3, padded: true, seed: 5 };

function generate(...inputs: ModelInput[]) {
  const tensors = generateInputs(inputs, OPTIONS);
  return (name: string) => {
    const tensor = tensors.get(name)!;
    return { dims: tensor.dims, values: Array.from(toNumbers(tensor)) };
  };
}

describe('generated inputs', () => {
  it('follow the conventions of an encoder', () => {
    const of = generate(
      input('input_ids', 'int64', ['batch', 'sequence'], 30),
      input('attention_mask', 'int64', ['batch', 'sequence']),
      input('token_type_ids', 'int64', ['batch', 'sequence']),
      input('position_ids', 'int64', ['batch', 'sequence']),
    );
    assert.deepEqual(of('input_ids').dims, [3, 12]);
    assert.ok(of('input_ids').values.every(id => id >= 0 && id < 30));
    assert.ok(new Set(of('input_ids').values).size > 10);
    const mask = of('attention_mask').values;
    const visible = [0, 1, 2].map(row => mask.slice(row * 12, (row + 1) * 12));
    assert.deepEqual(
      visible.map(row => row.lastIndexOf(1) + 1),
      [12, 10, 8],
    );
    assert.ok(visible.every(row => row.indexOf(0) === -1 || row.indexOf(0) > row.lastIndexOf(1)));
    assert.ok(of('token_type_ids').values.every(id => id === 0));
    assert.deepEqual(of('position_ids').values.slice(12, 16), [0, 1, 2, 3]);
  });

  it('hide the padding that a PyTorch key_padding_mask marks', () => {
    const { values } = generate(input('key_padding_mask', 'bool', ['b', 's']))('key_padding_mask');
    assert.deepEqual(
      [0, 1, 2].map(row => values.slice(row * 12, (row + 1) * 12).filter(Boolean).length),
      [0, 2, 4],
    );
  });

  it('give a cached decoder an empty past', () => {
    const of = generate(
      input('input_ids', 'int64', ['batch_size', 'sequence_length']),
      input('attention_mask', 'int64', ['batch_size', 'past_sequence_length + sequence_length']),
      input('past_key_values.0.key', 'float32', ['batch_size', 4, 'past_sequence_length', 8]),
      input('cache_position', 'int64', ['sequence_length']),
    );
    assert.deepEqual(of('past_key_values.0.key').dims, [3, 4, 0, 8]);
    assert.deepEqual(of('attention_mask').dims, [3, 12]);
    assert.deepEqual(of('cache_position').values, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  });

  it('respect static sizes, and images', () => {
    const of = generate(
      input('pixel_values', 'float32', ['batch', 3, 32, 32]),
      input('input_features', 'float16', [1, 80, 100]),
      input('flag', 'bool', [1]),
    );
    assert.deepEqual(of('pixel_values').dims, [3, 3, 32, 32]);
    assert.deepEqual(of('input_features').dims, [1, 80, 100]);
    const pixels = of('pixel_values').values;
    const mean = pixels.reduce((a, b) => a + b) / pixels.length;
    const variance = pixels.reduce((sum, x) => sum + (x - mean) ** 2, 0) / pixels.length;
    assert.ok(Math.abs(mean) < 0.1 && Math.abs(variance - 1) < 0.1);
  });

  it('give one symbol one size', () => {
    const of = generate(input('a', 'float32', ['s0', 's1']), input('b', 'float32', [2, 's0', 's1']));
    assert.deepEqual(of('a').dims, [3, 12]);
    assert.deepEqual(of('b').dims, [2, 3, 12]);
  });

  it('are the same on every call, and have a second row only where a mask can say that it is padded', () => {
    const ids = input('input_ids', 'int64', ['b', 's'], 99);
    const mask = input('attention_mask', 'int64', ['b', 's']);
    const source = generatedSource([ids, mask], 'padded');
    assert.deepEqual(source.at(7), source.at(7));
    assert.deepEqual(source.at(7).get('input_ids')!.dims, [2, 7]);
    assert.deepEqual(generatedSource([ids], 'padded').at(7).get('input_ids')!.dims, [1, 7]);
    assert.equal(generatedSource([input('ids', 'int64', [1, 77])], 'padded').anyLength, false);
  });

  it('refuses what does not fit in memory, before it is drawn', () => {
    for (const length of [2 ** 28, Number.MAX_SAFE_INTEGER]) {
      const inputs = [input('input_ids', 'int64', ['batch', 'sequence'])];
      assert.throws(
        () => generateInputs(inputs, { ...OPTIONS, length }),
        (error: unknown) =>
          error instanceof InputError &&
          error.message.includes(`"input_ids" of shape [3, ${length}]`) &&
          error.details.remedy !== undefined,
      );
    }
  });
});
