import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileSource, readTensors, windowOf } from '../../../cli/data/input-source.js';
import { toNumbers } from '../../../cli/data/tensor.js';
import { findTokenizer, readTokenizer } from '../../../cli/data/tokenizer.js';
import { temporaryFolder } from '../../temporary-folder.js';
import { tinyTokenizer } from '../tiny-tokenizer.js';

const TEXT = 'The sea was quieter. The sea was quiet.';
/** Of the text, as transformers' BertTokenizer gives them for this vocabulary. */
const IDS = [4, 5, 6, 7, 8, 9, 4, 5, 6, 7, 9];
const INPUTS = [
  { name: 'input_ids', type: 'int64', dims: ['batch', 'sequence'], vocabulary: 257 },
  { name: 'attention_mask', type: 'int64', dims: ['batch', 'sequence'], vocabulary: null },
] as const;

describe('tokenizers', () => {
  const folder = temporaryFolder();
  const path = (name: string) => join(folder(), name);

  beforeEach(() => {
    writeFileSync(path('tokenizer.json'), tinyTokenizer());
    writeFileSync(path('text.txt'), TEXT);
  });

  it('encodes a text, and knows the special tokens around it', () => {
    const { encode, before, after } = readTokenizer(path('tokenizer.json'));
    assert.deepEqual([encode(TEXT), before, after], [IDS, [2], [3]]);
  });

  it('is found beside the model, one folder up, or where it is said to be', () => {
    mkdirSync(path('onnx'));
    mkdirSync(path('onnx/deep'));
    const beside = findTokenizer(path('model.onnx'), undefined);
    assert.equal(beside, path('tokenizer.json'));
    assert.equal(findTokenizer(path('onnx/model.onnx'), undefined), beside);
    assert.equal(findTokenizer(path('onnx/deep/model.onnx'), undefined), null);
    assert.equal(findTokenizer(path('onnx/deep/model.onnx'), folder()), beside);
    assert.throws(
      () => findTokenizer(path('model.onnx'), path('onnx')),
      /onnx.tokenizer\.json: no such file/,
    );
  });

  it('makes inputs of a text, with the masks that go with it', () => {
    const source = fileSource(path('text.txt'), path('tokenizer.json'), INPUTS);
    assert.equal(source.longest, IDS.length + 2);
    const feeds = source.at(6);
    assert.deepEqual(toNumbers(feeds.get('input_ids')!), Float64Array.of(2, 4, 5, 6, 7, 3));
    assert.deepEqual(toNumbers(feeds.get('attention_mask')!), new Float64Array(6).fill(1));
    assert.throws(() => source.at(14), /only 13 tokens, not 14/);
  });

  it('gives every window its special tokens', () => {
    const content = readTensors(path('text.txt'), path('tokenizer.json'), INPUTS);
    assert.ok(content.kind === 'text');
    const { text } = content;
    assert.equal(text.count(6), 2);
    const second = windowOf(text, 1, 6).get('input_ids')!;
    assert.deepEqual(toNumbers(second), Float64Array.of(2, 8, 9, 4, 5, 3));
    assert.equal(text.startOf(1, 6), 4);
    assert.equal(text.count(2), 0);
  });

  it('refuses tokenizers of another model, texts in other encodings, and what is no tokenizer', () => {
    const read = (text: string, tokenizer: string) => () => readTensors(path(text), path(tokenizer), INPUTS);
    writeFileSync(path('other.json'), tinyTokenizer(250));
    assert.throws(
      read('text.txt', 'other.json'),
      /text\.txt: input "input_ids" has the id 259, and the model knows ids up to 256/,
    );
    writeFileSync(path('latin.txt'), Buffer.from([0x63, 0xe9]));
    assert.throws(read('latin.txt', 'tokenizer.json'), /latin\.txt: not a text in UTF-8/);
    writeFileSync(path('broken.json'), '{"model": 1');
    assert.throws(read('text.txt', 'broken.json'), /broken\.json: not a tokenizer that can be used/);
    writeFileSync(path('empty.json'), '{}');
    assert.throws(read('text.txt', 'empty.json'), /empty\.json: not a tokenizer that can be used/);
  });

  it('refuses a text as bytes for a model over tokens', () => {
    const wide = [{ ...INPUTS[0], vocabulary: 30522 }];
    assert.throws(
      () => readTensors(path('text.txt'), null, wide),
      /input "input_ids" has 30522.*no tokenizer/,
    );
  });
});
