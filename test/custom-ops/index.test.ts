import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { OPERATORS } from '../../custom-ops/index.js';

const FOLDER = new URL('../../custom-ops/', import.meta.url);

describe('the index of operators', () => {
  it('lists every folder that defines an operator, under its name', () => {
    const folders = readdirSync(fileURLToPath(FOLDER), { withFileTypes: true })
      .filter(entry => entry.isDirectory() && existsSync(new URL(`${entry.name}/operator.js`, FOLDER)))
      .map(entry => entry.name);
    assert.deepEqual(OPERATORS.map(({ id }) => id).sort(), folders.sort());
  });

  it('gives every operator a preset called default and attributes that are told apart', () => {
    for (const { id, presets, attributes } of OPERATORS) {
      assert.ok('default' in presets, id);
      const names = attributes.map(({ name }) => name);
      assert.equal(new Set(names).size, names.length, id);
      for (const preset of Object.values(presets)) {
        for (const name of Object.keys(preset)) assert.ok(names.includes(name), `${id}: ${name}`);
      }
    }
  });
});
