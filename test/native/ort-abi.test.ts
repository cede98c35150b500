import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

const HEADER = 'onnxruntime_c_api.h';
const FOLDERS = [
  process.env.ONNXRUNTIME_INCLUDE ?? '',
  '/usr/include/onnxruntime',
  '/usr/local/include/onnxruntime',
  '/usr/local/include/onnxruntime/core/session',
];

describe('the ABI written down by hand', () => {
  it('agrees with ONNX Runtime’s header', function () {
    const folder = FOLDERS.find(candidate => candidate && existsSync(join(candidate, HEADER)));
    if (folder === undefined) {
      console.log(`no ${HEADER} (ONNXRUNTIME_INCLUDE names its folder): the ABI is not compared`);
      this.skip();
    }
    const compiler = process.env.CXX ?? 'c++';
    const run = spawnSync(
      compiler,
      ['-std=c++17', '-fsyntax-only', `-I${folder}`, 'test/native/ort-abi.cc'],
      {
        encoding: 'utf8',
      },
    );
    assert.equal(run.status, 0, run.stderr);
  });
});
