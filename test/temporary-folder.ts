import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A folder for each test of the enclosing `describe`, removed after it. Returns how to get at it. */
export function temporaryFolder(): () => string {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'onnx-rewrite-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));
  return () => folder;
}
