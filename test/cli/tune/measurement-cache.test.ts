import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MeasurementCache } from '../../../cli/tune/measurement-cache.js';
import { InputError } from '../../../rewriter/errors.js';
import { temporaryFolder } from '../../temporary-folder.js';

describe('cache of measurements', () => {
  const folder = temporaryFolder();
  const file = () => join(folder(), 'cache.json');
  const never = () => Promise.reject(new Error('measured again'));

  it('keeps what was measured, and measures it once', async () => {
    const cache = new MeasurementCache(file(), 'a');
    assert.equal(cache.has('time'), false);
    assert.throws(() => cache.stored('time'), /not measured/);
    assert.equal(await cache.get('time', async () => 12.5), 12.5);
    assert.equal(await cache.get('time', never), 12.5);
    const later = new MeasurementCache(file(), 'a');
    assert.equal(await later.get('time', never), 12.5);
    assert.equal(later.stored('time'), 12.5);
    assert.deepEqual(readdirSync(folder()), ['cache.json']);
  });

  it('keeps measurements of other models, data and settings apart', async () => {
    await new MeasurementCache(file(), 'a').get('time', async () => 1);
    const other = new MeasurementCache(file(), 'b');
    assert.equal(other.has('time'), false);
    await other.get('time', async () => 2);
    assert.equal(new MeasurementCache(file(), 'a').stored('time'), 1);
  });

  it('keeps what was there when a measurement fails', async () => {
    const cache = new MeasurementCache(file(), 'a');
    await cache.get('time', async () => 1);
    const before = readFileSync(file(), 'utf8');
    await assert.rejects(cache.get('loss', never), /measured again/);
    assert.equal(cache.has('loss'), false);
    assert.equal(readFileSync(file(), 'utf8'), before);
  });

  it('refuses files that are no cache', () => {
    for (const text of ['', 'words', '[]', '{}', '{"version": 99, "tunings": {}}']) {
      writeFileSync(file(), text);
      assert.throws(() => new MeasurementCache(file(), 'a'), InputError);
      assert.equal(readFileSync(file(), 'utf8'), text);
    }
  });
});
