import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FileTransaction, rollbackAll } from '../../../rewriter/onnx/file-transaction.js';
import { temporaryFolder } from '../../temporary-folder.js';

describe('FileTransaction', () => {
  const folder = temporaryFolder();
  const path = (...steps: string[]) => join(folder(), ...steps);

  function stage(transaction: FileTransaction, ...targets: string[]): void {
    for (const target of targets) writeFileSync(transaction.stage(target), target);
  }

  it('shows nothing before it commits, and everything after', () => {
    writeFileSync(path('last'), 'before');
    const transaction = new FileTransaction();
    stage(transaction, path('first'), path('new', 'second'), path('last'));
    assert.ok(!readdirSync(folder()).includes('first'));
    assert.equal(readFileSync(path('last'), 'utf8'), 'before');
    transaction.commit();
    assert.deepEqual(readdirSync(folder()).sort(), ['first', 'last', 'new']);
    assert.equal(readFileSync(path('last'), 'utf8'), path('last'));
    transaction.rollback();
    assert.deepEqual(readdirSync(path('new')), ['second']);
  });

  it('leaves neither files nor folders behind when rolled back, twice even', () => {
    const transaction = new FileTransaction();
    stage(transaction, path('first'), path('new', 'deep', 'second'));
    transaction.rollback();
    transaction.rollback();
    assert.deepEqual(readdirSync(folder()), []);
  });

  it('undoes a commit that fails half way', () => {
    const transaction = new FileTransaction();
    stage(transaction, path('first'), path('second'));
    mkdirSync(path('second', 'in-the-way'), { recursive: true });
    assert.throws(() => transaction.commit());
    assert.deepEqual(readdirSync(folder()), ['second']);
  });

  it('leaves a folder that it made to the files that others put there', () => {
    const transaction = new FileTransaction();
    stage(transaction, path('new', 'deep', 'mine'));
    writeFileSync(path('new', 'theirs'), 'theirs');
    transaction.rollback();
    assert.deepEqual(readdirSync(path('new')), ['theirs']);
  });

  it('is undone together with all others when a run is interrupted', () => {
    for (const name of ['a', 'b']) stage(new FileTransaction(), path(name));
    rollbackAll();
    assert.deepEqual(readdirSync(folder()), []);
  });
});
